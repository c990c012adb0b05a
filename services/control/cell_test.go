package control_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/services/control"
)

// Two customers.
const (
	account  = "0123456789abcdef0123456789abcdef"
	stranger = "fedcba9876543210fedcba9876543210"
)

// cell is a control plane on real listeners and a real database, with
// stand-ins for IBM Cloud.
type cell struct {
	url, admin string
	database   string // URL, as its owner
	cloud      *ibmCloud
	log        *transcript
	events     *transcript // of calls, one a line
	seen       *transcript // every answer's headers and body
	stop       func() error
}

// transcript collects what several goroutines write.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// settings returns a complete environment.
func settings(t *testing.T, cloud *ibmCloud, database string) map[string]string {
	t.Helper()
	folder := t.TempDir()
	var key [32]byte
	rand.Read(key[:])
	write := func(name, text string) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca := newAuthority(t)
	return map[string]string{
		"DATABASE_URL":                 database,
		"KMIP_API_ADDRESS":             "127.0.0.1:0",
		"KMIP_ADMIN_ADDRESS":           "127.0.0.1:0",
		"KMIP_IAM_URL":                 cloud.iam.URL,
		"KMIP_RESOURCE_CONTROLLER_URL": cloud.controller.URL,
		"KMIP_KEY_MANAGER_ENDPOINTS":   "kms/us-south=" + cloud.keyProtect.URL + ",hs-crypto/us-south=" + cloud.keyProtect.URL,
		"KMIP_SEALING_KEYS_FILE":       write("sealing", base64.StdEncoding.EncodeToString(key[:])+"\n"),
		"KMIP_SHARED_ENDPOINTS":        "kmip-1.test:5696,kmip-2.test:5697",
		"KMIP_CA_FILE":                 write("ca.pem", ca.certificate),
		"KMIP_CA_KEY_FILE":             write("ca-key.pem", ca.key),
		"KMIP_TLS_CERTIFICATE_FILE":    write("shared.pem", ca.shared),
		"KMIP_DEDICATED_ENDPOINTS":     "kmip.test:7000-7001",
		"KMIP_SERVICE_API_KEY_FILE":    write("service", serviceAPIKey+"\n"),
	}
}

// start runs a control plane until the test ends; changes are pairs of a
// setting and its value.
func start(t *testing.T, changes ...string) *cell {
	t.Helper()
	database := pgtest.Database(t)
	cloud := newIBMCloud(t)
	environment := settings(t, cloud, pgtest.URL(t, database, "kmip_control"))
	for i := 0; i < len(changes); i += 2 {
		environment[changes[i]] = changes[i+1]
	}
	config, err := control.ReadConfig(environment)
	if err != nil {
		t.Fatal(err)
	}
	log, events := &transcript{}, &transcript{}
	config.Events = audit.NewLog(events, "control", "boot", obs.Now).Record
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c, err := control.New(ctx, config, obs.NewLogger(log, "kmip-control"))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the control plane ended with %v", err)
		}
	})
	return &cell{
		url: "http://" + c.API().String(), admin: "http://" + c.Admin().String(),
		database: database, cloud: cloud, log: log, events: events, seen: &transcript{}, stop: stop,
	}
}

// response is an answer read whole.
type response struct {
	status int
	header http.Header
	body   string
}

// send makes one request; header holds pairs of name and value.
func (c *cell) send(t *testing.T, method, url, token, body string, header ...string) response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Header.Write(c.seen); err != nil {
		t.Fatal(err)
	}
	_, _ = c.seen.Write(text)
	return response{answer.StatusCode, answer.Header, string(text)}
}

// call sends a request of the first account's user to a path.
func (c *cell) call(t *testing.T, method, path, body string) response {
	t.Helper()
	return c.send(t, method, c.url+path, c.cloud.token(t, account, nil), body)
}

// read decodes a successful answer strictly: nothing undocumented, no null.
func read[T any](t *testing.T, r response, status int) T {
	t.Helper()
	var out T
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	decoder := json.NewDecoder(strings.NewReader(r.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&out); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	if strings.Contains(r.body, ":null") || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("null or no JSON: %s %s", r.header.Get("Content-Type"), r.body)
	}
	return out
}

// refusal checks an error answer: its container, and for its first error code,
// target and part of the sentence.
func refusal(t *testing.T, r response, status int, code api.ErrorCode, target, sentence string) {
	t.Helper()
	e := read[api.ErrorContainer](t, r, status)
	if int(e.StatusCode) != status || e.Trace == "" || e.Trace != r.header.Get("X-Correlation-ID") || len(e.Errors) == 0 {
		t.Fatalf("container %s with correlation id %q", r.body, r.header.Get("X-Correlation-ID"))
	}
	first, name := e.Errors[0], ""
	if first.Target != nil {
		name = first.Target.Name
	}
	if first.MoreInfo == "" || first.Code != code || name != target || !strings.Contains(first.Message, sentence) {
		t.Errorf("got %s about %q: %q; want %s about %q: …%s…", first.Code, name, first.Message, code, target, sentence)
	}
	if !first.Code.Valid() {
		t.Errorf("code %q is not documented", first.Code)
	}
}

// instance creates an instance of the first account and returns its path.
func (c *cell) instance(t *testing.T, name string) string {
	t.Helper()
	made := read[api.Instance](t, c.call(t, "POST", "/v1/instances", `{"name":"`+name+`"}`), http.StatusAccepted)
	return "/v1/instances/" + made.ID
}

// object encodes a body.
func object(fields map[string]any) string {
	text, _ := json.Marshal(fields)
	return string(text)
}
