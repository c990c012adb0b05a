package oasis

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// TestCorruptedExpectations spoils expectations of every case that passes,
// one at a time: each must be noticed.
func TestCorruptedExpectations(t *testing.T) {
	for _, class := range []string{"core", "ext"} {
		t.Run(class, func(t *testing.T) {
			spoilt := 0
			for _, c := range readCases(t, true, class) {
				c = c.Amend()
				if len(play(t, newPlayer(t), c).Different) > 0 {
					continue
				}
				for _, n := range spread(len(expectations(c)), 2) {
					wrong := c
					wrong.Steps = c.clone()
					leaf := expectations(wrong)[n]
					was := leaf.String()
					spoil(leaf)
					if r := play(t, newPlayer(t), wrong); len(r.Different) == 0 {
						t.Errorf("%s: %s instead of %s goes unnoticed", c.Name, leaf, was)
					}
					spoilt++
				}
			}
			t.Logf("%d spoilt expectations are noticed", spoilt)
		})
	}
}

// expectations returns what a case's answers say that no server may change.
func expectations(c Case) (leaves []*Item) {
	for n := range c.Steps {
		s := &c.Steps[n]
		for item := range s.Response.Items {
			i := &s.Response.Items[item]
			if i.Tag != kmip14.TagBatchItem || kmip14.Operation(i.enum(kmip14.TagOperation)) == kmip14.OperationQuery {
				continue
			}
			i.each(func(leaf *Item) {
				switch leaf.Value.(type) {
				case ttlv.EnumValue, int32, string:
					if leaf.Tag != kmip14.TagResultMessage {
						leaves = append(leaves, leaf)
					}
				}
			})
		}
	}
	return leaves
}

// spread returns at most some of n indices, evenly.
func spread(n, some int) (indices []int) {
	some = min(n, some)
	for i := range some {
		indices = append(indices, (2*i+1)*n/(2*some))
	}
	return indices
}

func spoil(leaf *Item) {
	switch v := leaf.Value.(type) {
	case ttlv.EnumValue:
		leaf.Value = v + 1
	case int32:
		leaf.Value = v + 1
	case string:
		leaf.Value = v + "?"
	}
}

// TestCorruptedAnswers spoils answers on their way: what is asked of every
// answer, and of one to another major version, must be noticed.
func TestCorruptedAnswers(t *testing.T) {
	generalFailure := func(i *Item) {
		if i.Tag == kmip14.TagResultReason {
			i.Value = ttlv.EnumValue(kmip14.ResultReasonGeneralFailure)
		}
	}
	otherVersion := func(i *Item) {
		if i.Tag == kmip14.TagProtocolVersionMajor {
			i.Value = int32(3)
		}
	}
	for _, test := range []struct {
		name  string
		cases []Case
		spoil func(*Item)
	}{
		{"alg-legacy", readCases(t, true, "alg-legacy"), generalFailure},
		{"ext2", readCases(t, true, "ext2"), otherVersion},
		{"2.x", readCases(t, false, "core", "ext", "ext2", "alg-legacy"), generalFailure},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, c := range test.cases {
				p := newPlayer(t)
				send := p.Send
				p.Send = func(request []byte) ([]byte, bool, error) {
					frame, closed, err := send(request)
					if err != nil {
						return nil, false, err
					}
					answer, err := Decode(frame)
					if err != nil {
						return nil, false, err
					}
					answer.each(test.spoil)
					frame, err = answer.Encode()
					return frame, closed, err
				}
				if r := play(t, p, c); len(r.Unclean) == 0 {
					t.Errorf("%s: spoilt answers go unnoticed", c.Name)
				}
			}
			t.Logf("%d cases with spoilt answers are noticed", len(test.cases))
		})
	}
}

// TestCorruptedEncodings spoils the last byte of encodings: what is not the
// same again must be noticed.
func TestCorruptedEncodings(t *testing.T) {
	spoilt := 0
	for _, v := range vectors(t, "codec") {
		if v.Class != "codec" {
			continue
		}
		lines, err := ReadLines(v.File)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			b, err := hex.DecodeString(l.Hex)
			if err != nil {
				t.Fatal(err)
			}
			wrong := bytes.Clone(b)
			wrong[len(wrong)-1] ^= 1
			if judge(l, b, wrong) == same {
				t.Errorf("%x is taken for %x", wrong, b)
			}
			spoilt++
		}
	}
	t.Logf("%d spoilt encodings are noticed", spoilt)
}
