package emulator

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	grantAPIKey = "urn:ibm:params:oauth:grant-type:apikey"

	testAccount  = "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4"
	otherAccount = "0f0e0d0c0b0a09080706050403020100"

	kmsInstance   = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"
	kmsNeighbour  = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a02"
	hpcsInstance  = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a03"
	kmsOfOther    = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a04"
	userKey       = "api-key-of-the-user-000000000000000001"
	managerKey    = "api-key-of-the-manager-00000000000001"
	writerKey     = "api-key-of-the-writer-000000000000001"
	readerPlusKey = "api-key-of-the-reader-plus-0000000001"
	readerKey     = "api-key-of-the-reader-000000000000001"
	otherKey      = "api-key-of-the-other-account-00000001"
	vmwareKey     = "api-key-of-vmware-solutions-000000001"

	managerID = "ServiceId-00000000-0000-4000-8000-000000000001"
)

func serviceID(n, account, key string, grants ...SeedAccess) SeedServiceID {
	return SeedServiceID{ID: "ServiceId-00000000-0000-4000-8000-00000000000" + n, Name: "service " + n, Account: account, APIKey: key, Access: grants}
}

func testSeed() *Seed {
	on := func(guid string, roles ...string) SeedAccess { return SeedAccess{serviceKMS, guid, roles} }
	return &Seed{
		Accounts: []SeedAccount{{testAccount, "Example"}, {otherAccount, "Other"}},
		Instances: []SeedInstance{
			{serviceKMS, kmsInstance, testAccount, "us-south", "keys", nil},
			{serviceKMS, kmsNeighbour, testAccount, "us-south", "neighbour", nil},
			{serviceHPCS, hpcsInstance, testAccount, "eu-de", "crypto", nil},
			{serviceKMS, kmsOfOther, otherAccount, "us-south", "other", nil},
		},
		Users: []SeedUser{{
			"IBMid-270004ABCD", "ada@example.com", "Ada Lovelace", testAccount, userKey,
			[]SeedAccess{
				{serviceKMS, kmsInstance, []string{"Viewer", "Reader"}},
				{serviceKMS, kmsNeighbour, []string{"Viewer"}},
				{serviceHPCS, hpcsInstance, []string{"Administrator"}},
				{"vmware-solutions", "", []string{"Administrator"}},
			},
		}},
		ServiceIDs: []SeedServiceID{
			serviceID("1", testAccount, managerKey, on(kmsInstance, "Manager"), on(kmsNeighbour, "Manager"), SeedAccess{serviceHPCS, hpcsInstance, []string{"Manager"}}),
			serviceID("2", testAccount, writerKey, on(kmsInstance, "Writer")),
			serviceID("3", testAccount, readerPlusKey, on(kmsInstance, "ReaderPlus")),
			serviceID("4", testAccount, readerKey, on(kmsInstance, "Reader")),
			serviceID("5", otherAccount, otherKey, on(kmsOfOther, "Manager")),
			{ID: "ServiceId-00000000-0000-4000-8000-000000000006", Service: "vmware-solutions", Name: "kmip", Account: otherAccount, APIKey: vmwareKey},
		},
	}
}

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

// world is an emulator whose services are reached through real sockets.
type world struct {
	t                         *testing.T
	dir                       string
	clock                     *clock
	e                         *Emulator
	iam, rc, kms, hpcs, admin string
	stop                      func()
}

func testConfig(dir string, now func() time.Time) Config {
	return Config{DataDir: dir, IAMAddr: ":1", ResourceControllerAddr: ":2", KeyProtectAddr: ":3", HPCSAddr: ":4", AdminAddr: ":5", Now: now}
}

func writeSeed(t testing.TB, seed any) string {
	t.Helper()
	raw, err := json.Marshal(seed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freshData is a data file that holds signing keys and nothing else: making them takes most of the
// time of a first start.
var freshData = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "emulator")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e, err := New(testConfig(dir, newClock().now))
	if err != nil {
		return nil, err
	}
	if err := e.db.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, dataFile))
})

func newWorld(t *testing.T) *world {
	t.Helper()
	raw, err := freshData()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, dataFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return startWorld(t, dir, newClock())
}

func startWorld(t *testing.T, dir string, c *clock) *world {
	t.Helper()
	return startSeeded(t, dir, c, testSeed())
}

// startSeeded starts an emulator on a data directory; without a seed it serves what is there.
func startSeeded(t *testing.T, dir string, c *clock, seed *Seed) *world {
	t.Helper()
	cfg := testConfig(dir, c.now)
	if seed != nil {
		cfg.SeedFile = writeSeed(t, seed)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, clock: c, e: e}
	var servers []*httptest.Server
	for i, at := range []*string{&w.iam, &w.rc, &w.kms, &w.hpcs, &w.admin} {
		s := httptest.NewServer(e.endpoints()[i].handler)
		servers = append(servers, s)
		*at = s.URL
	}
	w.stop = sync.OnceFunc(func() {
		for _, s := range servers {
			s.Close()
		}
		if err := e.db.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
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

func (w *world) postToken(path string, form url.Values) reply {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.iam+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return send(w.t, req)
}

func (w *world) token(key string) string {
	w.t.Helper()
	r := w.postToken("/identity/token", url.Values{"grant_type": {grantAPIKey}, "apikey": {key}})
	if r.status != 200 {
		w.t.Fatalf("token: %d %s", r.status, r.body)
	}
	return r.decode(w.t)["access_token"].(string)
}

// user is a caller of the Key Protect API with a token for one instance.
type user struct {
	w        *world
	base     string
	token    string
	instance string
}

func (w *world) user(key, instance string) user {
	return user{w, w.kms, w.token(key), instance}
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

func get(t *testing.T, url string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return send(t, req)
}

// send sends a request with a token.
func (w *world) send(method, url, token, body string) reply {
	w.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return send(w.t, req)
}
