package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

func TestKindTravels(t *testing.T) {
	cause := errors.New("connection refused by 10.0.0.1")
	err := fmt.Errorf("loading: %w", fault.Wrap(fault.Unavailable, "The key manager does not answer.", cause))
	if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, &fault.Error{Kind: fault.Unavailable}) || !errors.Is(err, cause) {
		t.Errorf("kind %s of %v", fault.KindOf(err), err)
	}
	if got := fault.Public(err); got != "The key manager does not answer." {
		t.Errorf("public text %q", got)
	}
	if errors.Is(err, &fault.Error{Kind: fault.Denied}) {
		t.Error("an error is of two kinds")
	}
}

func TestInternalShowsNothing(t *testing.T) {
	for _, err := range []error{errors.New("password=x"), fault.Wrap(fault.Internal, "password=x", nil)} {
		if fault.KindOf(err) != fault.Internal || strings.Contains(fault.Public(err), "password") {
			t.Errorf("%v shows %q", err, fault.Public(err))
		}
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := make(map[string]bool)
	for k := fault.Internal; k <= fault.Corrupt; k++ {
		if name := k.String(); strings.HasPrefix(name, "kind(") || seen[name] {
			t.Errorf("kind %d is named %q", k, name)
		} else {
			seen[name] = true
		}
	}
	if name := (fault.Corrupt + 1).String(); !strings.HasPrefix(name, "kind(") {
		t.Errorf("there is a name without a kind: %s", name)
	}
}
