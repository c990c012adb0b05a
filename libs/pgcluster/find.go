// Package pgcluster runs a private PostgreSQL from the binaries of this
// machine: a throwaway one for tests, a lasting one for `make run`. Nothing
// of it outlives the process that started it, however that ends, except the
// data of a lasting one.
package pgcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// ErrNotInstalled is returned by Find, and so by Start, when this machine has
// no PostgreSQL server.
var ErrNotInstalled = errors.New("no PostgreSQL server (initdb and postgres) on this machine: " +
	"install the package postgresql (`apt-get install postgresql`, `dnf install postgresql-server`, " +
	"`brew install postgresql@17`) or set PG_BIN to the folder of its programs")

// installed lists where packages put the programs, one folder a version.
var installed = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // PostgreSQL's own RPMs
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find returns the folder that holds initdb and postgres: $PG_BIN, else that
// of the initdb on PATH, else the highest version in the places where packages
// put them. Its error is ErrNotInstalled, or says what is wrong with PG_BIN.
func Find() (string, error) {
	if bin := os.Getenv("PG_BIN"); bin != "" { //nolint:forbidigo // about this machine, like PATH
		if !complete(bin) {
			return "", fmt.Errorf("PG_BIN is %s, which does not hold initdb and postgres", bin)
		}
		return bin, nil
	}
	if link, err := exec.LookPath("initdb"); err == nil {
		if file, err := filepath.EvalSymlinks(link); err == nil && complete(filepath.Dir(file)) {
			return filepath.Dir(file), nil
		}
	}
	var found []string
	for _, pattern := range installed {
		folders, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, folders...)
	}
	slices.SortStableFunc(found, func(a, b string) int { return version(b) - version(a) })
	for _, bin := range found {
		if complete(bin) {
			return bin, nil
		}
	}
	return "", ErrNotInstalled
}

func complete(bin string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return false
		}
	}
	return true
}

var digits = regexp.MustCompile(`\d+`)

// version returns the first number in a folder's path, the major version.
func version(bin string) int {
	n, err := strconv.Atoi(digits.FindString(bin))
	if err != nil {
		return 0
	}
	return n
}
