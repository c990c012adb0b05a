package iam

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
)

const (
	testIssuer   = "https://iam.cloud.ibm.com/identity"
	testAccount  = "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4"
	otherAccount = "0f0e0d0c0b0a09080706050403020100"

	userKey    = "api-key-of-the-user-000000000000000001"
	idKey      = "api-key-of-the-service-id-000000000001"
	serviceKey = "api-key-of-vmware-solutions-0000000001"
	otherKey   = "api-key-of-the-other-user-000000000001"

	userID    = "IBMid-270004ABCD"
	serviceID = "iam-ServiceId-00000000-0000-4000-8000-000000000001"
	vmwareID  = "iam-ServiceId-00000000-0000-4000-8000-000000000002"

	instanceCRN = "crn:v1:bluemix:public:vmware-solutions:us-south:a/" + otherAccount + ":6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a09::"
)

var testIdentities = []Identity{
	{
		IAMID: userID, Account: testAccount, Name: "Ada Lovelace", Email: "ada@example.com", APIKey: userKey,
		Access: []access.Grant{{Account: testAccount, Service: "cloudant", Roles: []string{"Administrator"}}},
	},
	{IAMID: "IBMid-270004ABCE", Account: otherAccount, Name: "Ben", Email: "ben@example.com", APIKey: otherKey},
	{IAMID: serviceID, Account: testAccount, Name: "service 1", APIKey: idKey},
	{IAMID: vmwareID, Account: testAccount, Name: "kmip", Service: "vmware-solutions", APIKey: serviceKey},
}

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

func openTest(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, Timeout: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	return db, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range Buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// freshData is a data file that holds signing keys and nothing else: making them takes most of the
// time of a test.
var freshData = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "iam")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "data.db")
	db, err := openTest(path)
	if err != nil {
		return nil, err
	}
	_, err = openSigner(db, testIssuer, func() time.Time { return start })
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// rig is IAM behind a socket.
type rig struct {
	t     *testing.T
	path  string
	s     *Service
	clock *clock
	url   string
	stop  func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	raw, err := freshData()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "data.db"), clock: &clock{t: start}}
	if err := os.WriteFile(r.path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(time.Hour)
	return r
}

// start serves what is on disk, seeded anew.
func (r *rig) start(lifetime time.Duration) {
	r.t.Helper()
	db, err := openTest(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, who := range testIdentities {
			if err := Seed(tx, who, r.clock.now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.s, err = New(Config{
		DB: db, Issuer: testIssuer, TokenLifetime: lifetime, Now: r.clock.now, Log: slog.New(slog.DiscardHandler),
		Proved: func(*http.Request, string) {},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	server := httptest.NewServer(r.s.Handler())
	r.url = server.URL
	r.stop = sync.OnceFunc(func() {
		server.Close()
		if err := db.Close(); err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(r.stop)
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

// call sends a request; headers come as name, value pairs.
func (r *rig) call(method, path, body string, headers ...string) reply {
	r.t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return r.send(request)
}

func (r *rig) send(request *http.Request) reply {
	r.t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, raw}
}

func (r *rig) grant(form url.Values, headers ...string) reply {
	r.t.Helper()
	return r.call("POST", "/identity/token", form.Encode(), append(headers, "Content-Type", "application/x-www-form-urlencoded")...)
}

// accessToken is that of a grant that succeeds.
func (r *rig) accessToken(form url.Values) string {
	r.t.Helper()
	got := r.grant(form)
	if got.status != 200 {
		r.t.Fatalf("token: %d %s", got.status, got.body)
	}
	return got.decode(r.t)["access_token"].(string)
}

func apiKeyForm(key string) url.Values {
	return url.Values{"grant_type": {grantAPIKey}, "apikey": {key}}
}

func (r *rig) token(key string) string {
	r.t.Helper()
	return r.accessToken(apiKeyForm(key))
}

// proves tells whether a token proves anybody.
func (r *rig) proves(token string) bool {
	r.t.Helper()
	got := r.call("GET", "/v1/policies?account_id="+testAccount, "", "Authorization", "Bearer "+token)
	if got.status != 200 && got.status != 401 {
		r.t.Fatalf("policies: %d %s", got.status, got.body)
	}
	return got.status == 200
}
