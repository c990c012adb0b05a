package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// operation is one that is built. run decodes the Request Payload on which its
// cursor stands, carries the operation out and writes the fields of the
// Response Payload to the batch's answer, in the specification's order. What it
// wrote before an error is taken back.
type operation struct {
	name    string
	since   int32 // minor version of 1.x that brought it; for Query
	changes bool  // makes, changes or ends an object
	run     func(*batch, context.Context, message.Cursor) error
}

// operations are all that are built, by their codes (KMIP 1.4, 9.1.3.2.27).
var operations = [...]operation{
	kmip14.OperationCreate:           {"Create", 0, true, (*batch).create},
	kmip14.OperationRegister:         {"Register", 0, true, (*batch).register},
	kmip14.OperationReKey:            {"Re-key", 0, true, (*batch).rekey},
	kmip14.OperationLocate:           {"Locate", 0, false, (*batch).locate},
	kmip14.OperationCheck:            {"Check", 0, false, (*batch).check},
	kmip14.OperationGet:              {"Get", 0, false, (*batch).get},
	kmip14.OperationGetAttributes:    {"Get Attributes", 0, false, (*batch).getAttributes},
	kmip14.OperationGetAttributeList: {"Get Attribute List", 0, false, (*batch).getAttributeList},
	kmip14.OperationAddAttribute:     {"Add Attribute", 0, true, (*batch).addAttribute},
	kmip14.OperationModifyAttribute:  {"Modify Attribute", 0, true, (*batch).modifyAttribute},
	kmip14.OperationDeleteAttribute:  {"Delete Attribute", 0, true, (*batch).deleteAttribute},
	kmip14.OperationActivate:         {"Activate", 0, true, (*batch).activate},
	kmip14.OperationRevoke:           {"Revoke", 0, true, (*batch).revoke},
	kmip14.OperationDestroy:          {"Destroy", 0, true, (*batch).destroy},
	kmip14.OperationQuery:            {"Query", 0, false, (*batch).query},
	kmip14.OperationDiscoverVersions: {"Discover Versions", 1, false, (*batch).discoverVersions},
}

// built returns the operation with a code, or nil if it is not built.
func built(code kmip14.Operation) *operation {
	if int(code) < len(operations) && operations[code].run != nil {
		return &operations[code]
	}
	return nil
}

// Changes reports whether a request makes, changes or ends an object: whether
// one of its batch items does. It costs next to nothing, as it is asked before
// a request is let in; of a frame that is not valid, and so never carried out,
// the answer means nothing.
func Changes(frame []byte) bool {
	top := message.Open(frame)
	top.Next()
	items, _ := top.Children()
	for nextItem(&items) {
		item, _ := items.Children()
		for item.Next() && item.Tag() != kmip14.TagOperation {
		}
		code, _ := item.Enum()
		if o := built(kmip14.Operation(code)); o != nil && o.changes {
			return true
		}
	}
	return false
}

// nameOf returns an operation's name for logs and metrics: one of a fixed set.
func nameOf(code kmip14.Operation) string {
	switch o := built(code); {
	case o != nil:
		return o.name
	case code == 0:
		return ""
	case code <= kmip14.OperationExport:
		return code.String()
	default:
		return "Unknown"
	}
}
