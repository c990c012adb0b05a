package kms

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

const (
	testAccount  = "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4"
	kmsInstance  = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"
	kmsNeighbour = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a02"
	hpcsInstance = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a03"
	hpcsNew      = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a04"

	manager   = "iam-ServiceId-00000000-0000-4000-8000-000000000001"
	colleague = "IBMid-270004ABCD"
	storage   = "crn-crn:v1:bluemix:public:cloud-object-storage:global:a/" + testAccount + ":0b9f3c52-7f55-4f2f-8c3f-5f0f3ad0a001::"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is the API on real sockets, before an IAM of its own: a token is its bearer's IAM id, and may
// decides.
type world struct {
	t         *testing.T
	db        *bbolt.DB
	clock     *clock
	kms, hpcs string
	may       func(Access) bool // default: everything
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kms.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range Buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, clock: newClock(), may: func(Access) bool { return true }}
	instances := map[string]Instance{
		kmsInstance:  {kmsInstance, KeyProtect, testAccount, "us-south", false},
		kmsNeighbour: {kmsNeighbour, KeyProtect, testAccount, "us-south", false},
		hpcsInstance: {hpcsInstance, HPCS, testAccount, "eu-de", false},
		hpcsNew:      {hpcsNew, HPCS, testAccount, "eu-de", true},
	}
	cfg := Config{
		DB: db, Now: w.clock.now, Log: slog.New(slog.DiscardHandler),
		Caller: func(r *http.Request) (string, error) {
			return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), nil
		},
		Instance: func(_ *bbolt.Tx, guid string) (Instance, error) {
			if in, ok := instances[guid]; ok {
				return in, nil
			}
			return Instance{}, ErrNoInstance
		},
		May: func(_ context.Context, _ *bbolt.Tx, q Access) (bool, error) { return w.may(q), nil },
	}
	servers := []*httptest.Server{httptest.NewServer(New(KeyProtect, cfg)), httptest.NewServer(New(HPCS, cfg))}
	w.kms, w.hpcs = servers[0].URL, servers[1].URL
	t.Cleanup(func() {
		for _, s := range servers {
			s.Close()
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// decode parses the body as JSON into plain Go values.
func (r reply) decode(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("answer %d is not a JSON object: %q", r.status, r.body)
	}
	return v
}

// resource is the first resource of an enveloped answer.
func (r reply) resource(t *testing.T) map[string]any {
	t.Helper()
	list := r.resources(t)
	if len(list) != 1 {
		t.Fatalf("answer %d has %d resources: %s", r.status, len(list), r.body)
	}
	return list[0]
}

func (r reply) resources(t *testing.T) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, v := range r.decode(t)["resources"].([]any) {
		out = append(out, v.(map[string]any))
	}
	return out
}

// code is the first reason's code of an error answer, or empty.
func (r reply) code(t *testing.T) string {
	t.Helper()
	if r.status < 400 {
		return ""
	}
	reasons, _ := r.resource(t)["reasons"].([]any)
	if len(reasons) == 0 {
		return ""
	}
	return reasons[0].(map[string]any)["code"].(string)
}

func send(t *testing.T, req *http.Request) reply {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, raw}
}

// user is a caller who works with one instance.
type user struct {
	w        *world
	base     string
	token    string
	instance string
}

func (w *world) user(iamID, instance string) user {
	return user{w, w.kms, iamID, instance}
}

// call sends a request; headers come as name, value pairs and win over the usual ones.
func (u user) call(method, path, body string, headers ...string) reply {
	u.w.t.Helper()
	req, err := http.NewRequest(method, u.base+"/api/v2"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		u.w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+u.token)
	req.Header.Set("Bluemix-Instance", u.instance)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		}
	}
	return send(u.w.t, req)
}

// must is call with the status it has to have.
func (u user) must(status int, method, path, body string, headers ...string) reply {
	u.w.t.Helper()
	r := u.call(method, path, body, headers...)
	if r.status != status {
		u.w.t.Fatalf("%s %s: %d, want %d: %s", method, path, r.status, status, r.body)
	}
	return r
}

// newKeyBody is a create request; fields is the inside of the resource without type.
func newKeyBody(fields string) string {
	return `{"metadata":{"collectionType":"application/vnd.ibm.kms.key+json","collectionTotal":1},
		"resources":[{"type":"application/vnd.ibm.kms.key+json",` + fields + `}]}`
}

func (u user) create(fields string, headers ...string) string {
	u.w.t.Helper()
	return u.must(201, "POST", "/keys", newKeyBody(fields), headers...).resource(u.w.t)["id"].(string)
}

func (u user) root() string { return u.create(`"name":"root","extractable":false`) }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// wrapped is what the tests need of a wrap answer.
func (u user) wrapped(id, plaintext, aad string) string {
	u.w.t.Helper()
	return u.must(200, "POST", "/keys/"+id+"/actions/wrap", `{"plaintext":"`+b64(plaintext)+`"`+aad+`}`).decode(u.w.t)["ciphertext"].(string)
}

func (u user) unwrap(id, ciphertext, aad string) reply {
	u.w.t.Helper()
	return u.call("POST", "/keys/"+id+"/actions/unwrap", `{"ciphertext":"`+ciphertext+`"`+aad+`}`)
}
