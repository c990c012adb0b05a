package oasis

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gemalto/kmip-go/kmip14"
)

// Vector is a file of test messages.
type Vector struct {
	File  string // its path
	Class string // core, ext, ext2, alg-legacy, codec or client; empty without a manifest
}

// IsCase reports whether the file holds requests and answers in turns.
func (v Vector) IsCase() bool {
	return filepath.Ext(v.File) == ".xml" || strings.HasPrefix(filepath.Base(filepath.Dir(v.File)), "oasis-")
}

// List lists a folder of test messages: the files of its manifest.tsv, whose
// lines begin with path and class, or else every XML file below it.
func List(folder string) (all []Vector, err error) {
	files := os.DirFS(folder)
	text, err := fs.ReadFile(files, "manifest.tsv")
	if errors.Is(err, fs.ErrNotExist) {
		err = fs.WalkDir(files, ".", func(file string, _ fs.DirEntry, err error) error {
			if filepath.Ext(file) == ".xml" {
				all = append(all, Vector{File: filepath.Join(folder, file)})
			}
			return err
		})
		return all, err
	}
	if err != nil {
		return nil, err
	}
	for n, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		path, rest, _ := strings.Cut(line, "\t")
		class, _, ok := strings.Cut(rest, "\t")
		if !ok {
			return nil, fmt.Errorf("manifest.tsv:%d: no path and class", n+1)
		}
		if n > 0 { // the first line names the columns
			all = append(all, Vector{File: filepath.Join(folder, path), Class: class})
		}
	}
	return all, nil
}

// Read reads the cases among vectors; the rest is left out. Cases that go on
// where another one ended begin with that one's steps.
func Read(vectors []Vector) ([]Case, error) {
	var all []Case
	for _, v := range vectors {
		if !v.IsCase() {
			continue
		}
		read := ReadXML
		if filepath.Ext(v.File) != ".xml" {
			read = ReadHex
		}
		c, err := read(v.File)
		if err != nil {
			return nil, err
		}
		c.Class = v.Class
		all = append(all, c)
	}
	for n := range all {
		follow(&all[n], all)
	}
	return all, nil
}

// follow puts the steps of the case that writes a tape before those of the
// case that reads it (TL-M-2 and TL-M-3 of KMIP Profiles): in the same
// version if there is one, else in any, made to fit.
func follow(c *Case, all []Case) {
	version, reads := strings.CutPrefix(c.Name, "TL-M-3-")
	if !reads || !spoken(c.Steps[0].Request) {
		return
	}
	for _, earlier := range all {
		if earlier.Name == "TL-M-2-"+version {
			c.Steps = append(earlier.clone(), c.Steps...)
			return
		}
	}
	for _, earlier := range all {
		if strings.HasPrefix(earlier.Name, "TL-M-2-") && spoken(earlier.Steps[0].Request) {
			c.Steps = append(earlier.as(*c, "TL-M-2-"+version), c.Steps...)
			return
		}
	}
}

func (c Case) clone() []Step {
	steps := make([]Step, len(c.Steps))
	for n, s := range c.Steps {
		steps[n] = Step{Request: s.Request.clone(), Response: s.Response.clone()}
	}
	return steps
}

func (i Item) clone() Item {
	items := make([]Item, len(i.Items))
	for n, c := range i.Items {
		items[n] = c.clone()
	}
	i.Items = items
	return i
}

// as returns the case's steps in the version of another one and under another
// name. Alternative Name came with KMIP 1.2.
func (c Case) as(other Case, name string) []Step {
	minor := other.Steps[0].Request.at(kmip14.TagRequestHeader, kmip14.TagProtocolVersion, kmip14.TagProtocolVersionMinor).Value
	old := equal(minor, int32(0)) || equal(minor, int32(1))
	steps := c.clone()
	for n := range steps {
		for _, m := range []*Item{&steps[n].Request, &steps[n].Response} {
			m.each(func(i *Item) {
				switch {
				case i.Tag == kmip14.TagProtocolVersionMinor:
					i.Value = minor
				case i.Value == c.Name:
					i.Value = name
				}
				if i.Tag == kmip14.TagTemplateAttribute && old {
					i.Items = without(i.Items, "Alternative Name")
				}
			})
		}
	}
	return steps
}

func without(attributes []Item, dropped string) (rest []Item) {
	for _, a := range attributes {
		if name(a) != dropped {
			rest = append(rest, a)
		}
	}
	return rest
}
