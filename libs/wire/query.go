package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// lastQueryFunction is the highest Query Function of each minor version of
// 1.x (section 9.1.3.2.24 of KMIP 1.0 to 1.4).
var lastQueryFunction = [...]kmip14.QueryFunction{
	kmip14.QueryFunctionQueryApplicationNamespaces,
	kmip14.QueryFunctionQueryExtensionMap,
	kmip14.QueryFunctionQueryAttestationTypes,
	kmip14.QueryFunctionQueryClientRegistrationMethods,
	kmip14.QueryFunctionQueryClientRegistrationMethods,
}

// decodeQuery returns what a Query asks for, bit n for function n
// (KMIP 1.4, 4.25).
func decodeQuery(c message.Cursor, d decoding, v version) (asked uint32, err error) {
	d.repeatable[0] = kmip14.TagQueryFunction
	err = eachField(c, d, func(f message.Cursor) error {
		if f.Tag() != kmip14.TagQueryFunction {
			return errUnknownField
		}
		n, err := f.Enum()
		if err != nil {
			return err
		}
		if n == 0 || n > uint32(lastQueryFunction[v.minor]) {
			return fault.Newf(fault.Invalid, "Query function %d is not known in this protocol version.", n)
		}
		asked |= 1 << n
		return nil
	})
	if err == nil && asked == 0 {
		err = fault.New(fault.Missing, "Query Function is missing.")
	}
	return asked, err
}

func (b *batch) query(_ context.Context, c message.Cursor) (payload, error) {
	asked, err := decodeQuery(c, b.decoding, b.version)
	return capabilities{asked: asked, vendor: b.responder.Vendor}, err
}

// capabilities is the Response Payload of Query (KMIP 1.4, 4.25). Functions
// about what is not built are answered with nothing.
type capabilities struct {
	asked  uint32
	vendor string
}

func (p capabilities) put(e *ttlv.Encoder, v version) error {
	if p.asks(kmip14.QueryFunctionQueryOperations) {
		for i := range operations {
			if operations[i].since <= v.minor {
				e.EncodeEnumeration(kmip14.TagOperation, uint32(operations[i].code))
			}
		}
	}
	if p.asks(kmip14.QueryFunctionQueryObjects) {
		e.EncodeEnumeration(kmip14.TagObjectType, uint32(kmip14.ObjectTypeSymmetricKey))
	}
	if p.asks(kmip14.QueryFunctionQueryServerInformation) {
		e.EncodeTextString(kmip14.TagVendorIdentification, p.vendor)
	}
	return nil
}

func (p capabilities) asks(f kmip14.QueryFunction) bool { return p.asked&(1<<f) != 0 }
