package client

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// Operation is KMIP's Operation enumeration (KMIP 1.4, 9.1.3.2.27).
type Operation uint32

// The operations that Conn's methods ask for.
const (
	OperationCreate           = Operation(kmip14.OperationCreate)
	OperationLocate           = Operation(kmip14.OperationLocate)
	OperationGet              = Operation(kmip14.OperationGet)
	OperationGetAttributes    = Operation(kmip14.OperationGetAttributes)
	OperationAddAttribute     = Operation(kmip14.OperationAddAttribute)
	OperationActivate         = Operation(kmip14.OperationActivate)
	OperationRevoke           = Operation(kmip14.OperationRevoke)
	OperationDestroy          = Operation(kmip14.OperationDestroy)
	OperationQuery            = Operation(kmip14.OperationQuery)
	OperationDiscoverVersions = Operation(kmip14.OperationDiscoverVersions)
)

// String returns the operation's name without spaces, "GetAttributes", or its
// number.
func (o Operation) String() string { return kmip14.Operation(o).String() }

// Item is one item of a request's batch: an operation and the fields of its
// payload, in the order of the specification.
type Item struct {
	Operation Operation
	Payload   []kmip.Field
}

// request is what an answer is compared with.
type request struct {
	version    Version
	items      []Item
	credential *Credential // nil: none is sent
	identified bool        // the items have batch item ids
}

// batchItemID numbers the items of one request, from 0, as vCenter's library
// does: "QLKC" and the position from 1, little-endian (vCenter 7.0.3).
func batchItemID(n int) []byte {
	return binary.LittleEndian.AppendUint32([]byte("QLKC"), uint32(n)+1) //nolint:gosec // a batch is small
}

// encode returns the frame: no time stamp, no option in the header
// (vCenter 7.0.3).
func (r request) encode() ([]byte, error) {
	var w message.Writer
	at := w.Begin(kmip14.TagRequestMessage)
	header := []kmip.Field{field(kmip14.TagProtocolVersion, protocolVersion(r.version))}
	if r.credential != nil {
		header = append(header, r.credential.authentication())
	}
	header = append(header, field(kmip14.TagBatchCount, kmip.Int(int32(len(r.items))))) //nolint:gosec // a batch is small
	if err := w.Value(kmip14.TagRequestHeader, kmip.Struct(header...)); err != nil {
		return nil, err
	}
	for n, item := range r.items {
		fields := []kmip.Field{field(kmip14.TagOperation, kmip.Enum(item.Operation))}
		if r.identified {
			fields = append(fields, field(kmip14.TagUniqueBatchItemID,
				kmip.Value{Type: kmip.ByteString, Bytes: batchItemID(n)}))
		}
		fields = append(fields, field(kmip14.TagRequestPayload, kmip.Struct(item.Payload...)))
		if err := w.Value(kmip14.TagBatchItem, kmip.Struct(fields...)); err != nil {
			return nil, fmt.Errorf("%s: %w", item.Operation, err)
		}
	}
	w.End(at)
	return w.Frame(), nil
}

// authentication is the field Authentication (KMIP 1.4, 6.6).
func (c *Credential) authentication() kmip.Field {
	return field(kmip14.TagAuthentication, kmip.Struct(field(kmip14.TagCredential, kmip.Struct(
		field(kmip14.TagCredentialType, kmip.Enum(uint32(kmip14.CredentialTypeUsernameAndPassword))),
		field(kmip14.TagCredentialValue, kmip.Struct(
			field(kmip14.TagUsername, kmip.Text(c.UserName)), field(kmip14.TagPassword, kmip.Text(c.Password))))))))
}

// sent reports whether vCenter sends a credential with items (vCenter 8.0.1).
func sent(items []Item) bool {
	return slices.ContainsFunc(items, func(i Item) bool {
		switch i.Operation {
		case OperationDiscoverVersions, OperationQuery, OperationGetAttributes, OperationAddAttribute:
			return false
		default:
			return true
		}
	})
}

func field(tag ttlv.Tag, v kmip.Value) kmip.Field { return kmip.Field{Tag: uint32(tag), Value: v} }

func protocolVersion(v Version) kmip.Value {
	return kmip.Struct(
		field(kmip14.TagProtocolVersionMajor, kmip.Int(v.Major)),
		field(kmip14.TagProtocolVersionMinor, kmip.Int(v.Minor)),
	)
}

// attributes returns Attribute structures; an index of 0 is left out.
func attributes(list []kmip.Attribute) []kmip.Field {
	out := make([]kmip.Field, 0, len(list))
	for _, a := range list {
		fields := []kmip.Field{field(kmip14.TagAttributeName, kmip.Text(a.Name))}
		if a.Index != 0 {
			fields = append(fields, field(kmip14.TagAttributeIndex, kmip.Int(a.Index)))
		}
		fields = append(fields, field(kmip14.TagAttributeValue, a.Value))
		out = append(out, field(kmip14.TagAttribute, kmip.Struct(fields...)))
	}
	return out
}
