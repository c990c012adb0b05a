package oasis

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

var cases = flag.String("cases", "", "a folder of OASIS cases in XML for TestFolder")

// vectors returns all test messages, or skips the test where they are not
// kept; it wants those of some classes.
func vectors(t *testing.T, classes ...string) []Vector {
	t.Helper()
	folder := os.Getenv("KMIP_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	all, err := List(folder)
	if err != nil {
		kept, err := Kept(filepath.Join(evidence, "oasis.json"))
		if err != nil {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED %d vectors of class %s: $KMIP_VECTORS does not hold them", kept.Count(classes...), strings.Join(classes, ", "))
	}
	return all
}

// readCases returns the cases of some classes whose version is of KMIP 1.x, or
// those of others.
func readCases(t *testing.T, ours bool, classes ...string) (some []Case) {
	t.Helper()
	all, err := Read(vectors(t, classes...))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if slices.Contains(classes, c.Class) && spoken(c.Steps[0].Request) == ours {
			some = append(some, c)
		}
	}
	if len(some) == 0 {
		t.Fatalf("no cases of class %v", classes)
	}
	return some
}

// newPlayer plays against a server of one tenant in this process, over the
// stand-ins of package enginetest and a clock of its own.
func newPlayer(t testing.TB) Player {
	clock := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock }
	r := &wire.Responder{
		Engine: engine.New(engine.Config{
			Objects: enginetest.NewObjects(), KeyManagers: enginetest.NewKeyManager().KeyManagers, Now: now,
		}),
		Now: now, Vendor: "KMIP for VMware",
	}
	one := &tenant.Tenant{ID: enginetest.NewTenantID()}
	return Player{
		Now:  now,
		Pass: func(d time.Duration) { clock = clock.Add(d) },
		Send: func(request []byte) ([]byte, bool, error) {
			response := r.Respond(t.Context(), one, &wire.Session{}, request)
			return response.Frame.Reveal(), response.Close, nil
		},
	}
}

func play(t testing.TB, p Player, c Case) Report {
	t.Helper()
	r, err := p.Play(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCases plays every case that must pass. Those of the tables of exceptions
// fail, or pass once amended.
func TestCases(t *testing.T) {
	for _, class := range []string{"core", "ext"} {
		t.Run(class, func(t *testing.T) {
			passed := 0
			all := readCases(t, true, class)
			for _, c := range all {
				if playCase(t, c) {
					passed++
				}
			}
			t.Logf("%d of %d cases pass", passed, len(all))
		})
	}
}

// playCase reports whether a case passes, as amended where it has to be.
func playCase(t *testing.T, c Case) bool {
	t.Helper()
	if Amended[c.Name].Why != "" && len(play(t, newPlayer(t), c).Different) == 0 {
		t.Errorf("%s passes as it is written, but is amended", c.Name)
	}
	r := play(t, newPlayer(t), c.Amend())
	for _, u := range r.Unclean {
		t.Errorf("%s: %s", c.Name, u)
	}
	why := Exception(c.Name)
	switch {
	case len(r.Different) == 0 && why != "":
		t.Errorf("%s passes, but is listed to need %s", c.Name, why)
	case len(r.Different) > 0 && why == "":
		t.Errorf("%s:\n\t%s", c.Name, strings.Join(r.Different, "\n\t"))
	}
	return len(r.Different) == 0
}

// TestOtherMajorVersions sends the requests of KMIP 2.x cases: each is refused
// as a whole, in a version that the client can fall back to.
func TestOtherMajorVersions(t *testing.T) {
	all := readCases(t, false, "core", "ext", "ext2", "alg-legacy")
	for _, c := range all {
		r := play(t, newPlayer(t), c)
		for _, d := range append(r.Unclean, r.Different...) {
			t.Errorf("%s: %s", c.Name, d)
		}
		if len(r.Answers) == 0 {
			t.Errorf("%s: no answers", c.Name)
		}
	}
	t.Logf("%d cases are refused", len(all))
}

// TestCleanAnswers plays cases of optional features: whatever is built or not,
// every answer is one that a client can go on from.
func TestCleanAnswers(t *testing.T) {
	passed := 0
	all := readCases(t, true, "ext2", "alg-legacy")
	for _, c := range all {
		r := play(t, newPlayer(t), c)
		for _, u := range r.Unclean {
			t.Errorf("%s: %s", c.Name, u)
		}
		if len(r.Different) == 0 {
			passed++
		}
		if first := r.Answers[0]; c.Class == "alg-legacy" && first.Reason != kmip14.ResultReasonInvalidField {
			t.Errorf("%s: %v, want Invalid Field for its algorithm", c.Name, first)
		}
	}
	t.Logf("%d cases have clean answers; %d of them pass", len(all), passed)
}

// TestFolder plays all cases of -cases.
func TestFolder(t *testing.T) {
	if *cases == "" {
		t.Skip("no folder is given: -cases")
	}
	files, err := List(*cases)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Read(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			r := play(t, newPlayer(t), c)
			for _, d := range append(r.Unclean, r.Different...) {
				t.Error(d)
			}
		})
	}
}
