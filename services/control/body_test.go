package control

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg"
)

// Every kind has its own row in the table; the two internal ones aside, none
// answers with 500.
func TestEveryKindHasAnAnswer(t *testing.T) {
	for kind := fault.Internal; kind <= fault.Corrupt; kind++ {
		status, entry := describe(&fault.Error{Kind: kind, Public: "x"})
		internal := kind == fault.Internal || kind == fault.Corrupt
		if !entry.Code.Valid() || http.StatusText(status) == "" || (status == http.StatusInternalServerError) != internal {
			t.Errorf("%s: %d %s", kind, status, entry.Code)
		}
	}
	if status, entry := describe(fault.New(fault.Corrupt+1, "x")); status != http.StatusInternalServerError || entry.Code != api.ErrorCodeInternalError {
		t.Errorf("unknown kind: %d %s", status, entry.Code)
	}
	if _, entry := describe(errors.New("pq: secret detail")); entry.Message != fault.Public(nil) {
		t.Errorf("an error without kind shows %q", entry.Message)
	}
}

func FuzzCheckJSON(f *testing.F) {
	f.Add([]byte(`{"name":"a"}`))
	f.Add([]byte(`{"name":"a","NAME":null,"name":[{}]} x`))
	f.Add([]byte("{\"\\u0000\":\"\xff\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		var body api.InstancePrototype
		err := checkJSON(data, &body)
		if err == nil {
			return
		}
		all := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all = joined.Unwrap()
		}
		for _, one := range all {
			if status, entry := describe(one); status != http.StatusBadRequest || len(entry.Message) > 2048 {
				t.Errorf("%q: %d %s", data, status, entry.Message)
			}
		}
	})
}

// Whatever a query or an If-Match holds, it is understood or refused with 400.
func FuzzQueryAndEntityTags(f *testing.F) {
	f.Add("limit=1&start=x", `"a", "b"`)
	f.Add("limit=1&limit=%zz&%00=`", `W/"a"`)
	f.Add("name=", "*")
	f.Fuzz(func(t *testing.T, query, tags string) {
		match, matchErr := matches(&tags)
		for _, err := range []error{checkQuery(query, nil), checkQuery(query, []string{"limit", "start"}), matchErr} {
			if err == nil {
				continue
			}
			if status, entry := describe(err); status != http.StatusBadRequest || len(entry.Message) > 2048 || entry.Target != nil && len(entry.Target.Name) > 512 {
				t.Errorf("%q, %q: %d %+v", query, tags, status, entry)
			}
		}
		if i := (pg.Instance{ID: "a"}); match != nil && match(i) && !strings.Contains(tags, etag(i)) {
			t.Errorf("%q matches %s", tags, etag(i))
		}
	})
}
