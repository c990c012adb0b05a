// Package rules holds the rules about the repository as tests.
package rules

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root = "../.."
	own  = "github.com/kmip-for-vmware/kmip/"
)

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// packages lists the workspace's packages, without test files.
func packages(t *testing.T) []pkg {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Doc,Imports,GoFiles", "work")
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Start(); err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(out); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, own)
		all = append(all, p)
	}
	if err := list.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// layers is the import rule: a package imports only lower layers, or its own
// subtree. The longest prefix that matches a package counts.
var layers = map[string]int{
	"api": 0, "migrations": 0,
	"libs/secret": 1, "libs/fault": 1, "libs/crn": 1, "libs/pgcluster": 1, "libs/pgtest": 1,
	"libs/tenant": 2, "libs/kmip": 2,
	"libs/engine": 3,
	"libs/wire":   4, "libs/keyprotect": 4, "libs/iam": 4, "libs/pg": 4, "libs/audit": 4, "libs/obs": 4,
	"services/control": 5, "services/node": 5, "services/emulator": 5, "services/cli": 5, "services/console": 5, "services/dev": 5,
	"services/cmd": 6,
	"e2e":          7,
}

// sublayer orders the packages that share a layer but may use each other.
var sublayer = map[string][]string{
	"libs/pgtest": {"libs/pgcluster"},
}

// room returns the entry of layers that a package belongs to.
func room(importPath string) string {
	best := ""
	for r := range layers {
		if (importPath == r || strings.HasPrefix(importPath, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

// violation says what is wrong with one import, or "".
func violation(from, to string) string {
	a, b := room(from), room(to)
	switch {
	case a == "" || b == "":
		return "has no place in the tree of the design"
	case a == b && a != "services/cmd":
		return ""
	case slices.Contains(sublayer[a], b):
		return ""
	case layers[b] >= layers[a]:
		return "is not a lower layer"
	case a == "services/emulator" && (b == "libs/iam" || b == "libs/keyprotect" || b == "api"):
		return "would let a wrong belief pass on both sides"
	}
	return ""
}

func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		if room(p.ImportPath) == "" {
			t.Errorf("%s has no place in the tree of the design", p.ImportPath)
		}
		for _, imported := range p.Imports {
			imported, ours := strings.CutPrefix(imported, own)
			if !ours {
				continue
			}
			if why := violation(p.ImportPath, imported); why != "" {
				t.Errorf("%s imports %s, which %s", p.ImportPath, imported, why)
			}
		}
	}
}

// TestLayersSeesViolations keeps the rule itself honest.
func TestLayersSeesViolations(t *testing.T) {
	for _, bad := range [][2]string{
		{"libs/engine", "libs/pg"},
		{"libs/pg", "libs/wire"},
		{"libs/wire/client", "libs/keyprotect"},
		{"services/node", "services/control"},
		{"services/cmd/kmip-node", "services/cmd/kmip-control"},
		{"services/emulator", "libs/keyprotect"},
		{"libs/tenant", "libs/engine"},
		{"libs/kmip", "libs/tenant"},
		{"services/node", "e2e"},
		{"libs/util", "libs/secret"},
	} {
		if violation(bad[0], bad[1]) == "" {
			t.Errorf("%s may import %s", bad[0], bad[1])
		}
	}
	for _, good := range [][2]string{
		{"libs/wire", "libs/wire/message"},
		{"services/cmd/kmip-node", "services/node"},
		{"libs/engine/enginetest", "libs/engine"},
		{"libs/pg", "migrations"},
	} {
		if why := violation(good[0], good[1]); why != "" {
			t.Errorf("%s may not import %s: %s", good[0], good[1], why)
		}
	}
}

// reserved are libraries that only some rooms may import, test files apart.
var reserved = map[string][]string{
	"github.com/jackc/":                       {"libs/pg", "libs/pgcluster", "libs/pgtest"},
	"github.com/riverqueue/":                  {"libs/pg", "libs/pgcluster", "libs/pgtest"},
	"github.com/golang-migrate/":              {"libs/pg", "libs/pgcluster", "libs/pgtest"},
	"github.com/gemalto/kmip-go":              {"libs/wire", "e2e"},
	"github.com/IBM/go-sdk-core":              {"api", "libs/iam", "libs/keyprotect"},
	"github.com/IBM/platform-services-go-sdk": {"services/control"},
	"github.com/go-chi/":                      {"services/control", "services/node", "services/emulator", "services/cli", "services/console", "services/dev"},
	"github.com/IBM/keyprotect-go-client":     {},
	"github.com/ovh/":                         {},
	"github.com/spf13/":                       {"services/cli"},
	"github.com/rogpeppe/":                    {},
	"go.etcd.io/bbolt":                        {"services/emulator"},
	"github.com/prometheus/":                  {"libs/obs", "services/control", "services/node", "services/emulator"},
}

// kmipPackages are the parts of gemalto/kmip-go that are safe on outside bytes.
var kmipPackages = []string{"github.com/gemalto/kmip-go/ttlv", "github.com/gemalto/kmip-go/kmip14"}

func TestReservedLibraries(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for prefix, rooms := range reserved {
				if strings.HasPrefix(imported, prefix) && !slices.Contains(rooms, room(p.ImportPath)) {
					t.Errorf("%s imports %s, which belongs to %v alone", p.ImportPath, imported, rooms)
				}
			}
			if strings.HasPrefix(imported, "github.com/gemalto/") && !slices.Contains(kmipPackages, imported) {
				t.Errorf("%s imports %s; only %v are safe", p.ImportPath, imported, kmipPackages)
			}
		}
	}
}

// generated is how a tool marks what it wrote.
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// handwritten returns the names of a package's files that people wrote.
func (p pkg) handwritten(t *testing.T) (files []string) {
	t.Helper()
	for _, f := range p.GoFiles {
		text, err := os.ReadFile(filepath.Join(p.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if !generated.Match(text) {
			files = append(files, f)
		}
	}
	return files
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.handwritten(t)) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc", "shared", "base", "lib"}

func TestBannedNames(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(bannedNames, path.Base(p.ImportPath)) {
			t.Errorf("%s: a package is named after what it holds, not %q", p.ImportPath, path.Base(p.ImportPath))
		}
		for _, f := range p.handwritten(t) {
			if slices.Contains(bannedNames, strings.TrimSuffix(f, ".go")) {
				t.Errorf("%s/%s: a file is named after what it holds", p.ImportPath, f)
			}
		}
	}
}

// TestModuleLists keeps the lists of modules in scripts equal to go.work.
func TestModuleLists(t *testing.T) {
	work := read(t, "go.work")
	var modules []string
	for _, m := range regexp.MustCompile(`(?m)^\t\./(\w+)$`).FindAllStringSubmatch(work, -1) {
		modules = append(modules, m[1])
	}
	slices.Sort(modules)
	want := strings.Join(modules, " ")
	if len(modules) != 5 {
		t.Fatalf("go.work names %q", want)
	}
	for file, pattern := range map[string]string{
		"Makefile":   `(?m)^MODULES\s*:=\s*(.*)$`,
		".ci/run":    `(?m)^for module in (.*); do$`,
		".ci/verify": `(?m)^for module in (.*); do$`,
	} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(read(t, file))
		if m == nil || m[1] != want {
			t.Errorf("%s names the modules %q, go.work %q", file, m, want)
		}
	}
}

// TestNoSleepInTests finds calls of time.Sleep in test files.
func TestNoSleepInTests(t *testing.T) {
	walk(t, func(file string) {
		if !strings.HasSuffix(file, "_test.go") {
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if ok && call.Sel.Name == "Sleep" {
				if x, ok := call.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s sleeps; wait for a signal instead", file)
				}
			}
			return true
		})
	})
}

// TestHandwrittenFilesStaySmall bounds what a reader has to hold.
func TestHandwrittenFilesStaySmall(t *testing.T) {
	const most = 800
	walk(t, func(file string) {
		if !strings.HasSuffix(file, ".go") {
			return
		}
		text := read(t, file)
		if lines := strings.Count(text, "\n"); lines > most && !generated.MatchString(text) {
			t.Errorf("%s has %d lines, more than %d", file, lines, most)
		}
	})
}

// walk calls f with the path of each file of the project, relative to root.
func walk(t *testing.T, f func(file string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); name != root && (strings.HasPrefix(n, ".") || n == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f(relative)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
