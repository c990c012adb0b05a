package dev

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// variable is one line of stack.env.
type variable struct{ name, value string }

var variableName = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)

// encodeEnv returns lines NAME='value' that any POSIX shell can source,
// whatever the values hold.
func encodeEnv(variables []variable) ([]byte, error) {
	var b strings.Builder
	for _, v := range variables {
		if !variableName.MatchString(v.name) || strings.ContainsAny(v.value, "\x00\n\r") {
			return nil, fmt.Errorf("%s can't be written as one line of a shell script", v.name)
		}
		fmt.Fprintf(&b, "%s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	}
	return []byte(b.String()), nil
}

// writeFile puts a file in place as a whole: another process sees the former
// content or this, also after a crash.
func writeFile(path string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	for _, step := range []func() error{
		func() error { return f.Chmod(mode) },
		func() error { _, err := f.Write(content); return err },
		f.Sync,
	} {
		if err := step(); err != nil {
			_ = f.Close()
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
