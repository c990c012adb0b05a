package access

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"go.etcd.io/bbolt"
)

const (
	testAccount  = "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4"
	otherAccount = "0f0e0d0c0b0a09080706050403020100"
	keysGUID     = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"
	cryptoGUID   = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a03"
	sourceGUID   = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a09"

	admin    = "IBMid-270004ABCD"     // of everything in testAccount
	local    = "IBMid-270004ABCE"     // Manager of one kms instance
	stranger = "IBMid-270004ABCF"     // administrator in otherAccount
	lockedID = "iam-ServiceId-locked" // a locked service ID
	instance = "crn-crn:v1:bluemix:public:vmware-solutions:us-south:a/" + testAccount + ":" + sourceGUID + "::"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

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

// rig is policy management behind a socket. The caller is whom the Authorization header names.
type rig struct {
	t     *testing.T
	s     *Service
	clock *clock
	url   string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "data.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range Buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		all := func(account string) []Grant {
			return []Grant{{account, "kms", "", []string{"Administrator"}}, {account, "hs-crypto", "", []string{"Manager"}}}
		}
		return errors.Join(
			Seed(tx, admin, all(testAccount), c.now()), Seed(tx, stranger, all(otherAccount), c.now()),
			Seed(tx, local, []Grant{{testAccount, "kms", keysGUID, []string{"Manager"}}}, c.now()),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		DB: db, Now: c.now, Log: slog.New(slog.DiscardHandler),
		Caller: func(r *http.Request) (string, error) {
			if who := r.Header.Get("Authorization"); who != "" {
				return who, nil
			}
			return "", errors.New("nobody")
		},
		Locked: func(_ *bbolt.Tx, iamID string) (bool, error) { return iamID == lockedID, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := chi.NewRouter()
	s.Routes(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{t, s, c, server.URL}
}

// reply is an answer, read whole.
type reply struct {
	status int
	etag   string
	body   map[string]any
}

// code is the code of an error answer's only error.
func (r reply) code() string {
	list, _ := r.body["errors"].([]any)
	if len(list) != 1 {
		return ""
	}
	code, _ := list[0].(map[string]any)["code"].(string)
	return code
}

func (r *rig) call(by, method, path, body, ifMatch string) reply {
	r.t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", by)
	if ifMatch != "" {
		request.Header.Set("If-Match", ifMatch)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	out := reply{status: response.StatusCode, etag: response.Header.Get("ETag")}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out.body); err != nil {
			r.t.Fatalf("%s %s: %d %q: %v", method, path, out.status, raw, err)
		}
	}
	return out
}

// must is call with the status it has to have.
func (r *rig) must(status int, by, method, path, body, ifMatch string) reply {
	r.t.Helper()
	got := r.call(by, method, path, body, ifMatch)
	if got.status != status {
		r.t.Fatalf("%s %s: %d, want %d: %v", method, path, got.status, status, got.body)
	}
	return got
}

// attributes writes pairs of name and value as JSON; a value that begins with ~ is a pattern.
func attributes(pairs ...string) string {
	list := []attribute{}
	for i := 0; i < len(pairs); i += 2 {
		a := attribute{Name: pairs[i], Value: pairs[i+1]}
		if pattern, ok := strings.CutPrefix(a.Value, "~"); ok {
			a.Value, a.Operator = pattern, stringMatch
		}
		list = append(list, a)
	}
	raw, _ := json.Marshal(attributeSet{Attributes: list})
	return string(raw)
}

// body is a policy as clients send it.
func body(kind, subject, resource string, roles ...string) string {
	list := []string{}
	for _, r := range roles {
		list = append(list, `{"role_id":"`+r+`"}`)
	}
	return `{"type":"` + kind + `","subjects":[` + subject + `],"roles":[` + strings.Join(list, ",") + `],"resources":[` + resource + `]}`
}

func (r *rig) create(by, policy string) (id, etag string) {
	r.t.Helper()
	got := r.must(201, by, "POST", "/v1/policies", policy, "")
	return got.body["id"].(string), got.etag
}
