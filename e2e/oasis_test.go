package e2e

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/e2e/oasis"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// player plays OASIS cases against a node, each over a connection of its own.
func player(t *testing.T, i *instance) oasis.Player {
	t.Helper()
	cfg := i.config(t, nodes[0], i.certificate)
	conn, err := tls.Dial("tcp", cfg.Address, &tls.Config{
		RootCAs: cfg.RootCAs, ServerName: cfg.VerifyName, Certificates: []tls.Certificate{*cfg.Certificate}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return oasis.Player{Now: time.Now, Send: func(request []byte) ([]byte, bool, error) {
		if _, err := conn.Write(request); err != nil {
			return nil, false, err
		}
		answer, err := message.Read(conn, 1<<20)
		return answer, false, err
	}}
}

// TestOASISCases plays the cases against a real node: those of a version in a
// tenant of their own. None loses its connection.
func TestOASISCases(t *testing.T) {
	t.Parallel()
	vectors, err := oasis.List(vectorsFolder())
	if err != nil {
		kept, err := oasis.Kept(filepath.Join("oasis", "testdata", "oasis.json"))
		if err != nil {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED %d cases: $KMIP_VECTORS does not hold them", kept.Count("core", "ext", "ext2", "alg-legacy"))
	}
	all, err := oasis.Read(vectors)
	if err != nil {
		t.Fatal(err)
	}
	byVersion := make(map[string][]oasis.Case)
	for _, c := range all {
		byVersion[c.Version()] = append(byVersion[c.Version()], c)
	}
	for version, cases := range byVersion {
		// TC-OFFSET counts all keys of the last seconds: it comes before others
		// make some.
		counts := func(c oasis.Case) bool { return strings.HasPrefix(c.Name, "TC-OFFSET") }
		cases = append(slices.DeleteFunc(slices.Clone(cases), func(c oasis.Case) bool { return !counts(c) }), slices.DeleteFunc(cases, counts)...)
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, sharedCell(t))
			passed := 0
			for _, c := range cases {
				r, err := player(t, i).Play(c.Amend())
				if err != nil {
					t.Fatal(err)
				}
				must := c.Class == "core" || c.Class == "ext" || version > "2"
				switch {
				case len(r.Unclean) > 0:
					t.Errorf("%s: %s", c.Name, strings.Join(r.Unclean, "\n\t"))
				case len(r.Different) == 0:
					passed++
				case must && oasis.Exception(c.Name) == "":
					t.Errorf("%s: %s", c.Name, strings.Join(r.Different, "\n\t"))
				}
			}
			t.Logf("%d cases played, %d passed", len(cases), passed)
		})
	}
}

// vectorsFolder is where test messages of others are kept, if they are.
func vectorsFolder() string {
	if folder := os.Getenv("KMIP_VECTORS"); folder != "" {
		return folder
	}
	return filepath.Join("..", "..", "shared", "vectors")
}
