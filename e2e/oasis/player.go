package oasis

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// Player plays cases against one server.
type Player struct {
	// Send sends one request message and returns the answer. Closed says that
	// the server ended the connection after it.
	Send func(request []byte) (answer []byte, closed bool, err error)
	Now  func() time.Time // what $NOW means
	// Pass lets time pass, as much as the time stamps of a case say that it
	// took from one answer to the next. Without it no time passes.
	Pass func(time.Duration)
}

// Report is what became of a case.
type Report struct {
	// Different are the differences from what the case expects, in order.
	Different []string
	// Unclean are answers that no request deserves: that are not a response
	// to it, General Failure, or a closed connection.
	Unclean []string
	// Answers are all batch items of the answers, in order.
	Answers []Answer
}

// Answer is one batch item of an answer.
type Answer struct {
	Operation kmip14.Operation // of the request's item
	Status    kmip14.ResultStatus
	Reason    kmip14.ResultReason // 0 for success
	Expected  bool                // nothing in it differs from what the case expects
}

// game is one play of a case.
type game struct {
	Player
	step   int
	names  map[string]any      // values of placeholders that a server chose
	given  map[string]struct{} // byte strings and dates that the client can know
	report Report
}

// Play plays a case from its first step to its last, whatever differs on the
// way. An error means that it could not be played.
func (p Player) Play(c Case) (Report, error) {
	g := game{Player: p, names: make(map[string]any), given: make(map[string]struct{})}
	for n, s := range c.Steps {
		g.step = n + 1
		if n > 0 && g.Pass != nil {
			g.Pass(took(c.Steps[n-1].Response, s.Response))
		}
		if err := g.play(s); err != nil {
			return g.report, fmt.Errorf("%s, step %d: %w", c.Name, g.step, err)
		}
	}
	return g.report, nil
}

// took returns how much later than another an answer was recorded, if both say
// when.
func took(before, after Item) time.Duration {
	from, ok := before.at(kmip14.TagResponseHeader, kmip14.TagTimeStamp).Value.(time.Time)
	until, okToo := after.at(kmip14.TagResponseHeader, kmip14.TagTimeStamp).Value.(time.Time)
	if !ok || !okToo {
		return 0
	}
	return max(0, until.Sub(from))
}

func (g *game) play(s Step) error {
	asked := g.fill(s.Request)
	if err := g.learn(asked); err != nil {
		return err
	}
	request, err := asked.Encode()
	if err != nil {
		return err
	}
	frame, closed, err := g.Send(request)
	if err != nil {
		return err
	}
	if closed {
		g.unclean("the server closed the connection")
	}
	answer, err := Decode(frame)
	if err != nil {
		g.unclean("%v", err)
		return nil
	}
	g.judge(asked, answer)
	g.compare(asked, s.Response, answer)
	return nil
}

func (g *game) unclean(format string, args ...any) {
	g.report.Unclean = append(g.report.Unclean, fmt.Sprintf("step %d: ", g.step)+fmt.Sprintf(format, args...))
}

func (g *game) differs(where, format string, args ...any) {
	g.report.Different = append(g.report.Different, fmt.Sprintf("step %d: %s: ", g.step, where)+fmt.Sprintf(format, args...))
}

// fill puts values for placeholders. What no answer has given, which was a
// difference then, becomes an identifier that nobody has.
func (g *game) fill(i Item) Item {
	if i.Placeholder != "" {
		if offset, ok := strings.CutPrefix(i.Placeholder, "$NOW"); ok {
			seconds, _ := time.ParseDuration(offset + "s") // none after $NOW itself
			i.Value = g.Now().Add(seconds).Truncate(time.Second)
		} else if i.Value = g.names[i.Placeholder]; i.Value == nil {
			i.Value = "unknown " + i.Placeholder
		}
		i.Placeholder = ""
	}
	items := make([]Item, len(i.Items))
	for n, c := range i.Items {
		items[n] = g.fill(c)
	}
	i.Items = items
	return i
}

// learn keeps what the client can know of key bytes and their digests, and of
// dates, because it has sent them (KMIP 1.4, 3.17: the digest of a structure
// is that of its encoding).
func (g *game) learn(asked Item) (err error) {
	asked.each(func(i *Item) {
		switch v := i.Value.(type) {
		case []byte:
			sum := sha256.Sum256(v)
			g.given[hex.EncodeToString(v)] = struct{}{}
			g.given[hex.EncodeToString(sum[:])] = struct{}{}
		case time.Time:
			g.given[v.UTC().String()] = struct{}{}
		}
		if i.structure && i.Tag == kmip14.TagKeyMaterial {
			encoded, encodeErr := i.Encode()
			err = errors.Join(err, encodeErr)
			sum := sha256.Sum256(encoded)
			g.given[hex.EncodeToString(sum[:])] = struct{}{}
		}
	})
	return err
}

// judge holds an answer against what every answer must be (KMIP 1.4, 7.2 and
// 11.1), and keeps its items.
func (g *game) judge(asked, answer Item) {
	header := answer.at(kmip14.TagResponseHeader)
	requests, results := asked.find(kmip14.TagBatchItem), answer.find(kmip14.TagBatchItem)
	want := asked.version()
	if !spoken(asked) {
		want = highest
	}
	switch _, dated := header.at(kmip14.TagTimeStamp).Value.(time.Time); {
	case answer.Tag != kmip14.TagResponseMessage:
		g.unclean("answered with a %v", answer.Tag)
	case answer.version() != want:
		g.unclean("asked in version %s, answered in %s", asked.version(), answer.version())
	case !dated:
		g.unclean("no time stamp")
	case !equal(header.at(kmip14.TagBatchCount).Value, int32(len(results))), len(results) == 0, len(results) > len(requests):
		g.unclean("%d requests, %d answers, counted as %v", len(requests), len(results), header.at(kmip14.TagBatchCount).Value)
	}
	for n := range min(len(requests), len(results)) {
		g.judgeItem(requests[n], results[n], len(results) == 1)
	}
}

// highest is the version in which requests of unknown ones are answered.
const highest = "1.4"

// judgeItem judges one batch item. The only item of an answer may be the
// refusal of the whole request, which names no operation.
func (g *game) judgeItem(request, result Item, only bool) {
	a := Answer{
		Operation: kmip14.Operation(request.enum(kmip14.TagOperation)),
		Status:    kmip14.ResultStatus(result.enum(kmip14.TagResultStatus)),
		Reason:    kmip14.ResultReason(result.enum(kmip14.TagResultReason)),
	}
	g.report.Answers = append(g.report.Answers, a)
	failed := a.Status == kmip14.ResultStatusOperationFailed
	whole := only && failed && len(result.find(kmip14.TagOperation)) == 0
	message, _ := result.at(kmip14.TagResultMessage).Value.(string)
	switch {
	case !whole && !equal(result.at(kmip14.TagOperation).Value, request.at(kmip14.TagOperation).Value),
		!whole && !equal(result.at(kmip14.TagUniqueBatchItemID).Value, request.at(kmip14.TagUniqueBatchItemID).Value):
		g.unclean("%v: operation or batch item id is not repeated", a.Operation)
	case len(result.find(kmip14.TagResultStatus)) != 1, !failed && a.Status != kmip14.ResultStatusSuccess:
		g.unclean("%v: result status %v", a.Operation, a.Status)
	case failed != (a.Reason != 0), failed && message == "":
		g.unclean("%v: status %v, reason %v, message %q", a.Operation, a.Status, a.Reason, message)
	case a.Reason == kmip14.ResultReasonGeneralFailure:
		g.unclean("%v: General Failure, %s", a.Operation, message)
	}
}

// enum returns the value of an enumeration among an item's own, or 0.
func (i Item) enum(tag ttlv.Tag) uint32 {
	v, _ := i.at(tag).Value.(ttlv.EnumValue)
	return uint32(v)
}
