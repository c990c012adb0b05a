package wire

import (
	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// reasons maps every kind of fault to the result reason that a client sees
// (KMIP 1.4, 9.1.3.2.29 and section 11). vCenter takes Item Not Found as the
// loss of a key and locks the VM: nothing that may pass is answered so.
// Clients of 1.0 know no Object Already Exists, so Exists is an Illegal
// Operation.
var reasons = [...]kmip14.ResultReason{
	fault.Internal:           kmip14.ResultReasonGeneralFailure,
	fault.Malformed:          kmip14.ResultReasonInvalidMessage,
	fault.Invalid:            kmip14.ResultReasonInvalidField,
	fault.Missing:            kmip14.ResultReasonMissingData,
	fault.Unauthenticated:    kmip14.ResultReasonAuthenticationNotSuccessful,
	fault.Denied:             kmip14.ResultReasonPermissionDenied,
	fault.NotFound:           kmip14.ResultReasonItemNotFound,
	fault.Exists:             kmip14.ResultReasonIllegalOperation,
	fault.Conflict:           kmip14.ResultReasonGeneralFailure,
	fault.Illegal:            kmip14.ResultReasonIllegalOperation,
	fault.Gone:               kmip14.ResultReasonItemNotFound,
	fault.Unsupported:        kmip14.ResultReasonOperationNotSupported,
	fault.FeatureMissing:     kmip14.ResultReasonFeatureNotSupported,
	fault.FormatMissing:      kmip14.ResultReasonKeyFormatTypeNotSupported,
	fault.CompressionMissing: kmip14.ResultReasonKeyCompressionTypeNotSupported,
	fault.NamespaceMissing:   kmip14.ResultReasonApplicationNamespaceNotSupported,
	fault.Sensitive:          kmip14.ResultReasonSensitive,
	fault.NotExtractable:     kmip14.ResultReasonNotExtractable,
	fault.IndexOutOfBounds:   kmip14.ResultReasonIndexOutOfBounds,
	fault.TooLarge:           kmip14.ResultReasonResponseTooLarge,
	fault.Throttled:          kmip14.ResultReasonGeneralFailure,
	fault.Unavailable:        kmip14.ResultReasonGeneralFailure,
	fault.Corrupt:            kmip14.ResultReasonGeneralFailure,
}

// reasonOf returns the result reason of an error as a version knows it, 0 for
// nil.
func reasonOf(err error, v version) kmip14.ResultReason {
	if err == nil {
		return 0
	}
	kind := fault.KindOf(err)
	switch {
	case v.minor < 4 && (kind == fault.Sensitive || kind == fault.NotExtractable): // of KMIP 1.4
		return kmip14.ResultReasonPermissionDenied
	case int(kind) < len(reasons) && reasons[kind] != 0:
		return reasons[kind]
	}
	return kmip14.ResultReasonGeneralFailure
}
