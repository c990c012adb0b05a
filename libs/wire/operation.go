package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// payload writes the fields of a Response Payload in the specification's
// order.
type payload interface {
	put(e *ttlv.Encoder, v version) error
}

// operation is one that is built: run decodes a Request Payload, carries it
// out and returns the Response Payload.
type operation struct {
	code  kmip14.Operation
	name  string
	since int32 // minor version of 1.x that brought it; for Query
	run   func(*batch, context.Context, message.Cursor) (payload, error)
}

// operations are all that are built, in the order of their codes
// (KMIP 1.4, 9.1.3.2.27).
var operations = [...]operation{
	{kmip14.OperationCreate, "Create", 0, (*batch).create},
	{kmip14.OperationLocate, "Locate", 0, (*batch).locate},
	{kmip14.OperationGet, "Get", 0, (*batch).get},
	{kmip14.OperationGetAttributes, "Get Attributes", 0, (*batch).getAttributes},
	{kmip14.OperationAddAttribute, "Add Attribute", 0, (*batch).addAttribute},
	{kmip14.OperationActivate, "Activate", 0, (*batch).activate},
	{kmip14.OperationRevoke, "Revoke", 0, (*batch).revoke},
	{kmip14.OperationDestroy, "Destroy", 0, (*batch).destroy},
	{kmip14.OperationQuery, "Query", 0, (*batch).query},
	{kmip14.OperationDiscoverVersions, "Discover Versions", 1, (*batch).discoverVersions},
}
