package oasis

import (
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
)

// compare holds an answer against the expected one and keeps the values of its
// placeholders. What may vary is what KMIP Profiles let vary (3.0, section
// 4.1): values that the server chooses, the order of attributes and further
// ones where all are asked for, the text of a failure, and what a server says
// of itself. Everything else has to be as the case says.
func (g *game) compare(asked, want, got Item) {
	if !spoken(asked) {
		g.compareRefusal(got)
		return
	}
	g.items("ResponseHeader", want.at(kmip14.TagResponseHeader).Items, got.at(kmip14.TagResponseHeader).Items, g.differs)
	requests, expected, results := asked.find(kmip14.TagBatchItem), want.find(kmip14.TagBatchItem), got.find(kmip14.TagBatchItem)
	if len(expected) != len(results) {
		g.differs("ResponseMessage", "%d batch items, want %d", len(results), len(expected))
	}
	first := len(g.report.Answers) - min(len(requests), len(results))
	for n := range min(len(expected), len(results), len(requests)) {
		before := len(g.report.Different)
		g.batchItem(requests[n], expected[n], results[n])
		g.report.Answers[first+n].Expected = before == len(g.report.Different)
	}
}

// compareRefusal holds the answer to another major version against KMIP 1.4,
// 11.1: the request as a whole is an invalid message.
func (g *game) compareRefusal(got Item) {
	results := got.find(kmip14.TagBatchItem)
	if len(results) != 1 {
		g.differs("ResponseMessage", "%d batch items, want 1", len(results))
		return
	}
	a := &g.report.Answers[len(g.report.Answers)-1]
	a.Expected = a.Status == kmip14.ResultStatusOperationFailed && a.Reason == kmip14.ResultReasonInvalidMessage &&
		len(results[0].find(kmip14.TagOperation)) == 0
	if !a.Expected {
		g.differs("BatchItem", "%v %v, want the refusal of the protocol version", a.Status, a.Reason)
	}
}

func (g *game) batchItem(request, want, got Item) {
	where := kmip14.Operation(request.enum(kmip14.TagOperation)).String()
	asked := request.at(kmip14.TagRequestPayload)
	var wanted, answered []Item
	switch kmip14.Operation(request.enum(kmip14.TagOperation)) {
	case kmip14.OperationQuery:
		g.query(where, &want, &got)
	case kmip14.OperationDiscoverVersions:
		if len(asked.Items) == 0 {
			g.versions(where, &want, &got)
		}
	case kmip14.OperationGetAttributes, kmip14.OperationGetAttributeList:
		wanted, answered = cut(&want), cut(&got)
	default:
	}
	g.items(where, want.Items, got.Items, g.differs)
	g.attributes(where, wanted, answered, len(asked.find(kmip14.TagAttributeName)) == 0)
}

// payload returns the Response Payload of a batch item.
func payload(i *Item) *Item {
	i.Items = slices.Clone(i.Items)
	for n := range i.Items {
		if i.Items[n].Tag == kmip14.TagResponsePayload {
			return &i.Items[n]
		}
	}
	return &Item{}
}

// cut takes the attributes, or their names, from a batch item.
func cut(i *Item) (attributes []Item) {
	p := payload(i)
	var rest []Item
	for _, c := range p.Items {
		if c.Tag == kmip14.TagAttribute || c.Tag == kmip14.TagAttributeName {
			attributes = append(attributes, c)
		} else {
			rest = append(rest, c)
		}
	}
	p.Items = rest
	return attributes
}

// query lets a server say of itself what it wants, in the items that the case
// expects.
func (g *game) query(where string, want, got *Item) {
	wanted, answered := payload(want), payload(got)
	for _, a := range answered.Items {
		if len(wanted.find(a.Tag)) == 0 {
			g.differs(where, "%v was not asked for", a.Tag)
		}
	}
	wanted.Items, answered.Items = nil, nil
}

// versions lets a server know more versions than the case does.
func (g *game) versions(where string, want, got *Item) {
	wanted, answered := payload(want), payload(got)
	rest := answered.Items
	for _, w := range wanted.Items {
		n := slices.IndexFunc(rest, func(a Item) bool { return protocolVersion(a) == protocolVersion(w) })
		if n < 0 {
			g.differs(where, "version %s is missing, or not in order", protocolVersion(w))
			return
		}
		rest = rest[n+1:]
	}
	wanted.Items, answered.Items = nil, nil
}

// attributes compares attributes in any order; more may come if none was
// asked for by name.
func (g *game) attributes(where string, want, got []Item, more bool) {
	for _, w := range want {
		var why []string
		n := slices.IndexFunc(got, func(a Item) bool { return name(a) == name(w) && g.fits(w, a, &why) })
		switch {
		case n >= 0:
			got = slices.Delete(slices.Clone(got), n, n+1)
		case why != nil:
			g.differs(where, "%s: %s", name(w), why[0])
		default:
			g.differs(where, "%s is missing", name(w))
		}
	}
	if more {
		return
	}
	for _, a := range got {
		g.differs(where, "%s is not expected", name(a))
	}
}

// name returns that of an Attribute or Attribute Name.
func name(i Item) any {
	if i.Tag == kmip14.TagAttribute {
		i = i.at(kmip14.TagAttributeName)
	}
	return i.Value
}

// fits reports whether an attribute is as expected. If not it adds why, and
// placeholders keep the values that they had.
func (g *game) fits(want, got Item, why *[]string) bool {
	before := maps.Clone(g.names)
	fine := true
	g.item("", want, got, func(_, format string, args ...any) {
		fine = false
		*why = append(*why, fmt.Sprintf(format, args...))
	})
	if !fine {
		g.names = before
	}
	return fine
}

type complain func(where, format string, args ...any)

// unheeded are fields of which only some servers have use, and the text of a
// failure, which judgeItem asks for.
func unheeded(i Item) bool {
	switch i.Tag {
	case kmip14.TagResultMessage, kmip14.TagServerCorrelationValue, kmip14.TagClientCorrelationValue:
		return true
	case kmip14.TagAttributeIndex:
		return equal(i.Value, int32(0)) // what it is when it is left out (KMIP 1.4, 2.1.1)
	default:
		return false
	}
}

func (g *game) items(where string, want, got []Item, differs complain) {
	want = slices.DeleteFunc(slices.Clone(want), unheeded)
	got = slices.DeleteFunc(slices.Clone(got), unheeded)
	for n := range max(len(want), len(got)) {
		switch {
		case n >= len(want):
			differs(where, "%v is not expected", got[n])
		case n >= len(got):
			differs(where, "%v is missing", want[n])
		default:
			g.item(where, want[n], got[n], differs)
			if want[n].Tag != got[n].Tag {
				return // the rest is out of step
			}
		}
	}
}

func (g *game) item(where string, want, got Item, differs complain) {
	where += "/" + want.Tag.String()
	switch {
	case want.Tag != got.Tag:
		differs(where, "%v, want %v", got, want)
	case want.Placeholder != "":
		g.choose(where, want.Placeholder, got, differs)
	case want.structure != got.structure:
		differs(where, "%v, want %v", got, want)
	case want.structure && isGenerator(want): // the server's own
	case want.structure:
		g.items(where, want.Items, got.Items, differs)
	default:
		g.value(where, want, got, differs)
	}
}

// isGenerator reports whether a structure is a Random Number Generator's
// parameters (KMIP 1.4, 2.1.18).
func isGenerator(i Item) bool { return len(i.find(kmip14.TagRNGAlgorithm)) > 0 }

// choose keeps the value that a server chose for a placeholder. It has to stay
// the same, and no other may have it.
func (g *game) choose(where, placeholder string, got Item, differs complain) {
	if strings.HasPrefix(placeholder, "$NOW") {
		if _, ok := got.Value.(time.Time); !ok {
			differs(where, "%v, want a date", got)
		}
		return
	}
	known, have := g.names[placeholder]
	for other, v := range g.names {
		if other != placeholder && equal(v, got.Value) {
			differs(where, "%v is that of %s, want %s", got, other, placeholder)
			return
		}
	}
	switch {
	case !have && got.Value != nil:
		g.names[placeholder] = got.Value
	case !equal(known, got.Value):
		differs(where, "%v, want %v as before", got, known)
	}
}

// value compares what a client can know. Of other bytes it knows the length,
// of other dates that there is one.
func (g *game) value(where string, want, got Item, differs complain) {
	if reflect.TypeOf(want.Value) != reflect.TypeOf(got.Value) {
		differs(where, "%v of type %T, want %v of type %T", got, got.Value, want, want.Value)
		return
	}
	switch w := want.Value.(type) {
	case []byte:
		if _, known := g.given[hex.EncodeToString(w)]; !known {
			if a := got.Value.([]byte); len(a) != len(w) {
				differs(where, "%d bytes, want %d", len(a), len(w))
			}
			return
		}
	case time.Time:
		if _, known := g.given[w.UTC().String()]; !known {
			return
		}
	}
	if !equal(want.Value, got.Value) {
		differs(where, "%v, want %v", got, want)
	}
}
