package kms

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
)

func TestCreateAndRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	payload := b64("the standard key's bytes")

	id := u.create(`"name":"std","extractable":true,"payload":"` + payload + `","Tags":["a"],"description":"d"`)
	k := u.must(200, "GET", "/keys/"+id, "").resource(t)
	want := map[string]any{
		"type": "application/vnd.ibm.kms.key+json", "id": id, "name": "std", "description": "d", "state": 1.0, "extractable": true,
		"crn":      "crn:v1:bluemix:public:kms:us-south:a/" + testAccount + ":" + kmsInstance + ":key:" + id,
		"imported": true, "keyRingID": "default", "creationDate": "2026-11-23T12:00:00Z", "lastUpdateDate": "2026-11-23T12:00:00Z",
		"createdBy": manager, "payload": payload, "deleted": false,
	}
	for name, v := range want {
		if k[name] != v {
			t.Errorf("%s is %v, want %v", name, k[name], v)
		}
	}
	if _, ok := k["keyVersion"]; ok {
		t.Error("a standard key has a key version")
	}
	for _, path := range []string{"/keys", "/keys/" + id + "/metadata"} {
		if r := u.must(200, "GET", path, ""); strings.Contains(string(r.body), "payload") {
			t.Errorf("GET %s shows a payload", path)
		}
	}

	generated := u.create(`"name":"gen"`)
	if p, _ := u.must(200, "GET", "/keys/"+generated, "").resource(t)["payload"].(string); len(p) != 44 {
		t.Errorf("generated payload %q", p)
	}
	root := u.must(200, "GET", "/keys/"+u.root(), "").resource(t)
	if _, ok := root["payload"]; ok || root["keyVersion"] == nil {
		t.Errorf("root key: %v", root)
	}

	body := newKeyBody(`"name":"std","payload":"` + payload + `"`) // a name that exists
	for prefer, check := range map[string]func(map[string]any) bool{
		"":                      func(k map[string]any) bool { return k["payload"] == nil && k["state"] == 1.0 },
		"return=minimal":        func(k map[string]any) bool { return k["payload"] == nil && k["state"] == nil && k["id"] != nil },
		"return=representation": func(k map[string]any) bool { return k["payload"] == payload && k["state"] == 1.0 },
	} {
		if k := u.must(201, "POST", "/keys", body, "Prefer", prefer).resource(t); !check(k) {
			t.Errorf("Prefer %q: %v", prefer, k)
		}
	}
}

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	u.create(`"name":"has-alias","aliases":["taken"]`)
	const meta = `"metadata":{"collectionType":"application/vnd.ibm.kms.key+json","collectionTotal":1}`
	bytesOf := func(n int) string { return b64(strings.Repeat("k", n)) }
	for _, c := range []struct {
		name, body, code string
		status           int
	}{
		{"no body", "", "BAD_BODY_ERR", 400},
		{"unknown field", newKeyBody(`"name":"ab","colour":"red"`), "BAD_BODY_ERR", 400},
		{"two keys", `{` + meta + `,"resources":[{"name":"ab"},{"name":"cd"}]}`, "BAD_BODY_ERR", 400},
		{"no key", `{` + meta + `,"resources":[]}`, "BAD_BODY_ERR", 400},
		{"no metadata", `{"resources":[{"name":"ab"}]}`, "BAD_BODY_ERR", 400},
		{"short name", newKeyBody(`"name":"a"`), "INVALID_FIELD_ERR", 400},
		{"long name", newKeyBody(`"name":"` + strings.Repeat("n", 91) + `"`), "INVALID_FIELD_ERR", 400},
		{"long description", newKeyBody(`"name":"ab","description":"` + strings.Repeat("n", 241) + `"`), "INVALID_FIELD_ERR", 400},
		{"bad tag", newKeyBody(`"name":"ab","tags":["a:b"]`), "INVALID_FIELD_ERR", 400},
		{"past expiration", newKeyBody(`"name":"ab","expirationDate":"2026-11-23T11:59:59Z"`), "INVALID_FIELD_ERR", 400},
		{"root of 31 bytes", newKeyBody(`"name":"ab","extractable":false,"payload":"` + bytesOf(31) + `"`), "INVALID_FIELD_ERR", 400},
		{"standard of 7501 bytes", newKeyBody(`"name":"ab","payload":"` + bytesOf(7501) + `"`), "INVALID_FIELD_ERR", 400},
		{"empty payload", newKeyBody(`"name":"ab","payload":""`), "INVALID_FIELD_ERR", 400},
		{"payload with line end", newKeyBody(`"name":"ab","payload":"YWJj\n"`), "INVALID_FIELD_ERR", 400},
		{"URL-safe payload", newKeyBody(`"name":"ab","payload":"_-8="`), "INVALID_FIELD_ERR", 400},
		{"reserved alias", newKeyBody(`"name":"ab","aliases":["wrap"]`), "INVALID_FIELD_ERR", 400},
		{"taken alias", newKeyBody(`"name":"ab","aliases":["free","taken"]`), "KEY_ALIAS_NOT_UNIQUE_ERR", 409},
	} {
		if r := u.call("POST", "/keys", c.body); r.status != c.status || r.code(t) != c.code {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
	}
	// A refused request leaves nothing behind, not even its first alias.
	u.create(`"name":"after","aliases":["free"]`)
	u.create(`"name":"largest","payload":"` + bytesOf(7500) + `"`)
	if total := u.must(200, "HEAD", "/keys", "").header.Get("Key-Total"); total != "3" {
		t.Errorf("%s keys", total)
	}
}

func TestStateMatrix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	expiry := w.clock.now().Add(10 * time.Minute).Format(time.RFC3339)
	// Each state's key, by the steps that bring it there. All of them are past every waiting time.
	prepare := map[int]func() string{
		stateActive: u.root,
		stateSuspended: func() string {
			id := u.root()
			u.must(204, "POST", "/keys/"+id+"/actions/disable", "")
			return id
		},
		stateDeactivated: func() string { return u.create(`"name":"old","extractable":false,"expirationDate":"` + expiry + `"`) },
		stateDestroyed: func() string {
			id := u.root()
			u.must(204, "DELETE", "/keys/"+id, "")
			return id
		},
	}
	const conflict, gone = "409 KEY_ACTION_INVALID_STATE_ERR", "410 KEY_DELETED_ERR"
	type row map[int]string
	actions := []struct {
		name string
		want row
	}{
		{"get", row{1: "200", 2: "200", 3: "200", 5: "200"}},
		{"wrap", row{1: "200", 2: conflict, 3: conflict, 5: gone}},
		{"unwrap", row{1: "200", 2: conflict, 3: "200", 5: gone}},
		{"rewrap", row{1: "200", 2: conflict, 3: "200", 5: gone}},
		{"rotate", row{1: "204", 2: conflict, 3: "204", 5: gone}},
		{"disable", row{1: "204", 2: conflict, 3: conflict, 5: gone}},
		{"enable", row{1: conflict, 2: "204", 3: conflict, 5: gone}},
		{"delete", row{1: "204", 2: "204", 3: "204", 5: gone}},
		{"restore", row{1: conflict, 2: conflict, 3: conflict, 5: "201"}},
	}
	ids := map[string]string{}
	sealed := map[string]string{}
	for _, a := range actions {
		for state, prepared := range prepare {
			name := fmt.Sprint(a.name, state)
			id := prepared()
			ids[name] = id
			if state == stateActive || state == stateDeactivated {
				sealed[name] = u.wrapped(id, "x", "")
			} else {
				sealed[name] = b64("{}") // the state is looked at first
			}
		}
	}
	w.clock.advance(11 * time.Minute)
	for _, a := range actions {
		for state, want := range a.want {
			name := fmt.Sprint(a.name, state)
			path := "/keys/" + ids[name]
			if got := u.must(200, "GET", path, "").resource(t)["state"]; got != float64(state) {
				t.Fatalf("%s: state %v", name, got)
			}
			var r reply
			switch a.name {
			case "get":
				r = u.call("GET", path, "")
			case "delete":
				r = u.call("DELETE", path, "")
			case "restore":
				r = u.call("POST", path+"/restore", "")
			case "unwrap", "rewrap":
				r = u.call("POST", path+"/actions/"+a.name, `{"ciphertext":"`+sealed[name]+`"}`)
			default:
				r = u.call("POST", path+"/actions/"+a.name, "")
			}
			got := strings.TrimSpace(fmt.Sprint(r.status) + " " + func() string {
				if r.status < 400 {
					return ""
				}
				return r.code(t)
			}())
			if got != want {
				t.Errorf("%s in state %d: %s, want %s", a.name, state, got, want)
			}
		}
	}
}

func TestDeleteAndRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	ciphertext := u.wrapped(id, "x", "")
	k := u.must(200, "DELETE", "/keys/"+id+"?force=true", "", "Prefer", "return=representation").resource(t)
	for name, want := range map[string]any{
		"state": 5.0, "deleted": true, "deletionDate": "2026-11-23T12:00:00Z", "deletedBy": manager,
		"restoreAllowed": true, "restoreExpirationDate": "2026-12-23T12:00:00Z", "purgeAllowed": false,
	} {
		if k[name] != want {
			t.Errorf("%s is %v, want %v", name, k[name], want)
		}
	}
	if n := len(u.must(200, "GET", "/keys", "").resources(t)); n != 0 {
		t.Errorf("default list shows %d deleted keys", n)
	}
	if n := len(u.must(200, "GET", "/keys?state=1,5", "").resources(t)); n != 1 {
		t.Errorf("list of states 1,5 shows %d keys", n)
	}
	restore := func() reply {
		return u.call("POST", "/keys/"+id+"/restore", "")
	}
	w.clock.advance(settleTime - time.Second)
	if r := restore(); r.status != 409 || r.code(t) != "REQ_TOO_EARLY_ERR" {
		t.Errorf("restore after 29 s: %d %s", r.status, r.body)
	}
	w.clock.advance(time.Second)
	if r := restore(); r.status != 201 || r.resource(t)["state"] != 1.0 {
		t.Errorf("restore after 30 s: %d %s", r.status, r.body)
	}
	if r := u.unwrap(id, ciphertext, ""); r.status != 200 {
		t.Errorf("unwrap after the restore: %d %s", r.status, r.body)
	}

	standard := u.create(`"name":"std","payload":"` + b64("bytes") + `"`)
	u.must(204, "DELETE", "/keys/"+standard, "", "Prefer", "return=minimal")
	if k := u.must(200, "GET", "/keys/"+standard, "").resource(t); k["payload"] != nil {
		t.Error("a deleted standard key shows its payload")
	}
	u.must(204, "DELETE", "/keys/"+id, "")
	w.clock.advance(restoreWindow)
	if r := restore(); r.status != 400 || r.code(t) != "KEY_RESTORE_EXPIRED" {
		t.Errorf("restore after 30 days: %d %s", r.status, r.body)
	}
	w.clock.advance(purgeAfter - restoreWindow)
	if r := restore(); r.status != 404 || r.code(t) != "KEY_NOT_FOUND_ERR" {
		t.Errorf("restore after 90 days: %d %s", r.status, r.body)
	}
	if n := len(u.must(200, "GET", "/keys?state=5", "").resources(t)); n != 0 {
		t.Errorf("%d purged keys in the list", n)
	}
}

func TestDisableAndEnable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.root()
	u.must(204, "POST", "/keys/"+id+"/actions/disable", "")
	w.clock.advance(settleTime - time.Second)
	if r := u.call("POST", "/keys/"+id+"/actions/enable", ""); r.status != 409 || r.code(t) != "REQ_TOO_EARLY_ERR" {
		t.Errorf("enable after 29 s: %d %s", r.status, r.body)
	}
	w.clock.advance(time.Second)
	u.must(204, "POST", "/keys/"+id+"/actions/enable", "")
	u.must(200, "POST", "/keys/"+id+"/actions/wrap", "")
}

func TestKeyRings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	if r := u.must(201, "POST", "/key_rings/ring-1", ""); len(r.body) != 0 {
		t.Errorf("create answers %q", r.body)
	}
	for id, status := range map[string]int{"ring-1": 409, "default": 400, "a": 400} {
		u.must(status, "POST", "/key_rings/"+id, "")
	}
	rings := u.must(200, "GET", "/key_rings", "").resources(t)
	if len(rings) != 2 || len(rings[0]) != 1 || rings[0]["id"] != "default" || rings[1]["id"] != "ring-1" || rings[1]["createdBy"] == nil {
		t.Errorf("rings: %v", rings)
	}
	id := u.create(`"name":"in ring"`, "X-Kms-Key-Ring", "ring-1")
	u.create(`"name":"in default"`)
	u.must(200, "GET", "/keys/"+id, "")
	u.must(200, "GET", "/keys/"+id, "", "X-Kms-Key-Ring", "ring-1")
	for _, ring := range []string{"default", "ring-2"} {
		if r := u.call("GET", "/keys/"+id, "", "X-Kms-Key-Ring", ring); r.status != 404 || r.code(t) != "KEY_NOT_FOUND_ERR" {
			t.Errorf("wrong ring %s: %d", ring, r.status)
		}
	}
	if n := len(u.must(200, "GET", "/keys", "", "X-Kms-Key-Ring", "ring-1").resources(t)); n != 1 {
		t.Errorf("%d keys in ring-1", n)
	}
	if r := u.call("POST", "/keys", newKeyBody(`"name":"lost"`), "X-Kms-Key-Ring", "ring-2"); r.status != 404 || r.code(t) != "KEY_RING_NOT_FOUND_ERR" {
		t.Errorf("create into an unknown ring: %d %s", r.status, r.body)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	start := w.clock.now()
	for i := range 3 {
		u.create(fmt.Sprintf(`"name":"vmware_kmip_%d","aliases":["alias-%d"]`, i, i))
		w.clock.advance(time.Minute)
	}
	u.create(`"name":"Root","extractable":false`)
	names := func(query string) string {
		t.Helper()
		r := u.must(200, "GET", "/keys?"+query, "")
		var out []string
		for _, k := range r.resources(t) {
			out = append(out, k["name"].(string)[len(k["name"].(string))-1:])
		}
		if total := r.decode(t)["metadata"].(map[string]any)["collectionTotal"]; total != float64(len(out)) {
			t.Errorf("%s: collectionTotal %v of %d", query, total, len(out))
		}
		return strings.Join(out, "")
	}
	at := func(minutes int) string {
		return `"` + start.Add(time.Duration(minutes)*time.Minute).Format(time.RFC3339) + `"`
	}
	for _, c := range []struct{ sort, param, value, want string }{
		{"creationDate", "", "", "012t"},
		{"-creationDate", "", "", "t210"},
		{"extractable,-creationDate", "", "", "t210"},
		{"creationDate", "filter", "creationDate=gte:" + at(1), "12t"},
		{"creationDate", "filter", "creationDate=gt:" + at(1) + " creationDate=lte:" + at(2), "2"},
		{"creationDate", "filter", " creationDate=lt:" + at(1), "0"},
		{"creationDate", "filter", "creationDate=" + at(1), "1"},
		{"creationDate", "filter", "expirationDate=none extractable=true", "012"},
		{"creationDate", "filter", "state=2,3", ""},
		{"creationDate", "extractable", "false", "t"},
		{"creationDate", "search", "VMWARE,", "012"},
		{"creationDate", "search", "not:vmware", "t"},
		{"creationDate", "search", "exact:root", "t"},
		{"creationDate", "search", "alias:alias-1", "1"},
		{"creationDate", "search", "name:alias-1", ""},
		{"creationDate", "search", "escape:not:vmware", ""},
	} {
		query := url.Values{"sort": {c.sort}}
		if c.param != "" {
			query.Set(c.param, c.value)
		}
		if got := names(query.Encode()); got != c.want {
			t.Errorf("sort %s, %s %s: %q, want %q", c.sort, c.param, c.value, got, c.want)
		}
	}
	if a, b, c := names("limit=3"), names("limit=3&offset=3"), names("limit=3&offset=9"); len(a) != 3 || len(b) != 1 || len(c) != 0 || strings.Contains(a, b) {
		t.Errorf("pages %q, %q, %q", a, b, c)
	}
	if id := u.must(200, "GET", "/keys/alias-1/metadata", "").resource(t)["name"]; id != "vmware_kmip_1" {
		t.Errorf("alias-1 is %v", id)
	}
	if total := u.must(200, "HEAD", "/keys?extractable=true", "").header.Get("Key-Total"); total != "3" {
		t.Errorf("Key-Total %s", total)
	}
	for _, query := range []string{
		"limit=0", "limit=5001", "limit=x", "offset=-1", "sort=colour", "state=9", "extractable=maybe",
		"filter=state", "filter=colour%3Dred", "filter=creationDate%3Dgte:2026-11-23T12:00:00Z", "filter=creationDate%3Dnear:%222026-11-23T12:00:00Z%22",
		"filter=state%3D1&state=1", "filter=state%3D1+state%3D1+state%3D1+state%3D1",
	} {
		if r := u.call("GET", "/keys?"+query, ""); r.status != 400 || r.code(t) != "INVALID_QUERY_PARAM_ERR" {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
}

func TestDefaultPageIs200(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	for range 201 {
		u.create(`"name":"same"`)
	}
	if n := len(u.must(200, "GET", "/keys", "").resources(t)); n != 200 {
		t.Errorf("%d keys on the default page", n)
	}
	if n := len(u.must(200, "GET", "/keys?limit=5000", "").resources(t)); n != 201 {
		t.Errorf("%d keys on the largest page", n)
	}
}

func FuzzParseFilter(f *testing.F) {
	f.Add(`creationDate=gte:"2026-11-23T12:00:00Z" state=1,2 extractable=true expirationDate=none`)
	f.Add(`=`)
	f.Fuzz(func(t *testing.T, text string) {
		conditions, err := parseFilter(text)
		if err == nil {
			for _, c := range conditions {
				c.holds(key{}, time.Time{})
			}
		}
	})
}

// TestSearchSpace has more keys than a search goes through.
func TestSearchSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(manager, kmsInstance)
	id := u.create(`"name":"wanted","aliases":["nick"]`)
	err := w.db.Update(func(tx *bbolt.Tx) error {
		c := &call{tx: tx, in: Instance{GUID: kmsInstance}}
		for range maxSearchSpace {
			if err := c.save(key{ID: uuid.NewString(), Name: "other", Extractable: true, State: stateActive}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	u.call("GET", "/keys?search=wanted", "").refused(t, "search by name", 400, "KEY_SEARCH_TOO_BROAD")
	for _, text := range []string{id, "nick", "alias:nick"} {
		found := u.must(200, "GET", "/keys?search="+text, "")
		if found.resource(t)["id"] != id || found.decode(t)["metadata"].(map[string]any)["incompleteSearch"] != true {
			t.Errorf("search by %s: %s", text, found.body)
		}
	}
	if total := u.must(200, "HEAD", "/keys", "").header.Get("Key-Total"); total != "5001" {
		t.Errorf("Key-Total %s", total)
	}
}
