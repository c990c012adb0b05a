package wire_test

import (
	"fmt"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

func query(minor int, functions ...uint32) []byte {
	fields := make([]ttlv.Value, len(functions))
	for n, f := range functions {
		fields[n] = v(kmip14.TagQueryFunction, ttlv.EnumValue(f))
	}
	return message(header(minor, 1), item(kmip14.OperationQuery, fields...))
}

// TestQueryEveryFunction asks for each function in each version that has it.
func TestQueryEveryFunction(t *testing.T) {
	b := newBench()
	for minor, last := range []uint32{4, 6, 7, 12, 12} {
		for f := uint32(3); f <= last; f++ {
			var want []string
			switch f {
			case 3:
				want = []string{"VendorIdentification=IBM Cloud"}
			case 8:
				want = []string{"RNGAlgorithm=1"}
			case 11:
				want = []string{"StreamingCapability=false", "AsynchronousCapability=false", "AttestationCapability=false"}
				if minor == 4 {
					want = append(want, "BatchUndoCapability=false", "BatchContinueCapability=true")
				}
			case 12:
				want = []string{"ClientRegistrationMethod=5"}
			}
			it := b.one(t, query(minor, f))
			wantReason(t, fmt.Sprintf("function %d in 1.%d", f, minor), it, 0)
			wantLines(t, it.ResponsePayload, want...)
		}
		wantReason(t, "the function after the last", b.one(t, query(minor, last+1)), kmip14.ResultReasonInvalidField)
	}
}

// TestQueryTellsTheTruth asks for each operation that Query lists, and for
// each that it doesn't: those alone are Operation Not Supported.
func TestQueryTellsTheTruth(t *testing.T) {
	b := newBench()
	for minor := range 5 {
		listed := make(map[string]bool)
		for _, line := range flat(b.one(t, query(minor, 1)).ResponsePayload) {
			listed[line] = true
		}
		for code := kmip14.OperationCreate; code <= kmip14.OperationExport+1; code++ {
			it := b.one(t, message(header(minor, 1), item(code)))
			refused := it.ResultReason == kmip14.ResultReasonOperationNotSupported
			known := listed[fmt.Sprintf("Operation=%d", uint32(code))]
			// 1.0 lists no Discover Versions, and answers it all the same.
			if refused == known && (code != kmip14.OperationDiscoverVersions || minor != 0) {
				t.Errorf("1.%d lists %v: %t; answers %v", minor, code, known, it.ResultReason)
			}
		}
	}
}
