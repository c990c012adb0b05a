package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
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
func (b *batch) decodeQuery(c message.Cursor) (asked uint32, err error) {
	f := fields{later: b.later, repeatable: kmip14.TagQueryFunction}
	for f.open(c); f.next(); {
		if f.Tag() != kmip14.TagQueryFunction {
			f.unknown()
			continue
		}
		var function kmip14.QueryFunction
		function, f.err = enum[kmip14.QueryFunction](&f)
		if f.err == nil && (function == 0 || function > lastQueryFunction[b.version.minor]) {
			f.err = fault.Newf(fault.Invalid, "Query function %d is not known in this protocol version.", uint32(function))
		}
		asked |= 1 << function
	}
	return asked, f.done(kmip14.TagQueryFunction)
}

// query carries out Query. Of what is not built nothing is listed: application
// namespaces, extensions, attestation types, validations. Nor is a profile:
// nobody has certified one.
func (b *batch) query(_ context.Context, c message.Cursor) error {
	asked, err := b.decodeQuery(c)
	if err != nil {
		return err
	}
	asks := func(f kmip14.QueryFunction) bool { return asked&(1<<f) != 0 }
	if asks(kmip14.QueryFunctionQueryOperations) {
		for code := range b.operations {
			if o := &b.operations[code]; o.run != nil && o.since <= b.version.minor {
				b.answer.Enum(kmip14.TagOperation, uint32(code))
			}
		}
	}
	if asks(kmip14.QueryFunctionQueryObjects) {
		for _, typ := range kmip.ObjectTypes {
			b.answer.Enum(kmip14.TagObjectType, uint32(typ))
		}
	}
	if asks(kmip14.QueryFunctionQueryServerInformation) {
		b.answer.Text(kmip14.TagVendorIdentification, b.responder.Vendor)
	}
	if asks(kmip14.QueryFunctionQueryRNGs) {
		b.answer.putRNG()
	}
	if asks(kmip14.QueryFunctionQueryCapabilities) {
		b.answer.putCapabilities()
	}
	if asks(kmip14.QueryFunctionQueryClientRegistrationMethods) {
		// A client's certificate is known before it comes.
		b.answer.Enum(kmip14.TagClientRegistrationMethod, uint32(kmip14.ClientRegistrationMethodClientRegistered))
	}
	return nil
}

// putRNG writes RNG Parameters (KMIP 1.4, 2.1.18): those of the operating
// system's generator are not ours to know.
func (a *answer) putRNG() {
	at := a.Begin(kmip14.TagRNGParameters)
	a.Enum(kmip14.TagRNGAlgorithm, uint32(kmip14.RNGAlgorithmUnspecified))
	a.End(at)
}

// putCapabilities writes a Capability Information (KMIP 1.4, 2.1.22). Batches
// are in it since 1.4.
func (a *answer) putCapabilities() {
	at := a.Begin(kmip14.TagCapabilityInformation)
	a.Bool(kmip14.TagStreamingCapability, false)
	a.Bool(kmip14.TagAsynchronousCapability, false)
	a.Bool(kmip14.TagAttestationCapability, false)
	if a.version.minor >= 4 {
		a.Bool(kmip14.TagBatchUndoCapability, false)
		a.Bool(kmip14.TagBatchContinueCapability, true)
	}
	a.End(at)
}
