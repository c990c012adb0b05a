package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

func TestEveryKindHasAReason(t *testing.T) {
	missing := map[fault.Kind]bool{fault.NotFound: true, fault.Gone: true}
	for kind := fault.Kind(0); !strings.HasPrefix(kind.String(), "kind("); kind++ {
		if int(kind) >= len(reasons) || reasons[kind] == 0 {
			t.Errorf("%s has no result reason", kind)
			continue
		}
		got := reasonOf(fmt.Errorf("wrapped: %w", fault.New(kind, "text")), versions[0])
		if (got == kmip14.ResultReasonItemNotFound) != missing[kind] {
			t.Errorf("%s is answered %v", kind, got)
		}
	}
	if got := reasonOf(errors.New("no kind"), versions[0]); got != kmip14.ResultReasonGeneralFailure {
		t.Errorf("an error without kind is answered %v", got)
	}
}

func TestOperationNamesAreFew(t *testing.T) {
	for code, want := range map[kmip14.Operation]string{0: "", kmip14.OperationGetAttributes: "Get Attributes", 0x2C: "Unknown", 0xFFFFFFFF: "Unknown"} {
		if got := nameOf(code); got != want {
			t.Errorf("%#x is named %q, want %q", uint32(code), got, want)
		}
	}
	if nameOf(kmip14.OperationLocate) != "Locate" {
		t.Errorf("Locate is named %q", nameOf(kmip14.OperationLocate))
	}
}
