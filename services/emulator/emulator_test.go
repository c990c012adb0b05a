package emulator

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestChangesAreOnDiskBeforeTheAnswer copies the data file under a running emulator, which is what
// is left when the process is killed, and starts another one with the copy.
func TestChangesAreOnDiskBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	u.must(201, "POST", "/key_rings/ring-1", "")
	root := u.root()
	old := u.wrapped(root, "x", "")
	u.must(204, "POST", "/keys/"+root+"/actions/rotate", "")
	standard := u.create(`"name":"std","payload":"`+b64("bytes")+`","aliases":["nick"]`, "X-Kms-Key-Ring", "ring-1")
	deleted := u.create(`"name":"gone"`)
	u.must(204, "DELETE", "/keys/"+deleted, "")
	disabled := u.root()
	u.must(204, "POST", "/keys/"+disabled+"/actions/disable", "")

	raw, err := os.ReadFile(filepath.Join(w.dir, dataFile))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, dataFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	again := startWorld(t, dir, w.clock)
	v := user{again, again.kms, u.token, kmsInstance} // signed before the restart
	if r := v.unwrap(root, old, ""); r.status != 200 || r.decode(t)["rewrappedKeyVersion"] == nil {
		t.Errorf("unwrap: %d %s", r.status, r.body)
	}
	if k := v.must(200, "GET", "/keys/nick", "", "X-Kms-Key-Ring", "ring-1").resource(t); k["id"] != standard || k["payload"] != b64("bytes") {
		t.Errorf("standard key: %v", k)
	}
	for id, state := range map[string]float64{deleted: 5, disabled: 2} {
		if got := v.must(200, "GET", "/keys/"+id, "").resource(t)["state"]; got != state {
			t.Errorf("state %v, want %v", got, state)
		}
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	id := u.root()
	ciphertext := u.wrapped(id, "x", "")
	details := func(w *world) string {
		return string(get(t, w.iam+"/v1/apikeys/details", "Authorization", "Bearer "+u.token, "IAM-ApiKey", userKey).body)
	}
	keys, key := string(get(t, w.iam+"/identity/keys").body), details(w)
	w.stop()
	again := startWorld(t, w.dir, w.clock)
	if got := string(get(t, again.iam+"/identity/keys").body); got != keys {
		t.Error("the signing keys changed")
	}
	if got := details(again); got != key {
		t.Errorf("API key was %s, is %s", key, got)
	}
	if r := (user{again, again.kms, u.token, kmsInstance}).unwrap(id, ciphertext, ""); r.status != 200 {
		t.Errorf("unwrap: %d %s", r.status, r.body)
	}
}

func TestSeedReplacesWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.user(managerKey, kmsInstance).root()
	w.stop()

	seed := testSeed()
	const fresh = "api-key-of-the-manager-00000000000002"
	seed.ServiceIDs = seed.ServiceIDs[:1]
	seed.ServiceIDs[0].APIKey = fresh
	seed.ServiceIDs[0].Access = []SeedAccess{{serviceKMS, kmsInstance, []string{"Reader"}}}
	startSeeded(t, w.dir, w.clock, seed).stop()

	again := startSeeded(t, w.dir, w.clock, nil) // what was applied stays
	form := url.Values{"grant_type": {grantAPIKey}, "apikey": {managerKey}}
	if r := again.postToken("/identity/token", form); r.status != 400 {
		t.Errorf("the replaced API key: %d %s", r.status, r.body)
	}
	reader := again.user(fresh, kmsInstance)
	reader.must(200, "GET", "/keys/"+id+"/metadata", "")
	reader.must(401, "DELETE", "/keys/"+id, "")
	again.user(writerKey, kmsInstance).root() // a service ID that the seed does not name
}

func TestSeedProblemsAreReportedTogether(t *testing.T) {
	t.Parallel()
	bad := `{
		"accounts": [{"id":"ABC","name":""}],
		"instances": [{"service":"cos","guid":"1","account":"zz","region":"Mars","name":"n"}],
		"users": [{"iam_id":"ada","email":"ada","name":"n","account":"ABC","api_key":"short-secret","access":[{"service":"kms","instance":"1","roles":["King"]}]}],
		"service_ids": [
			{"id":"x","name":"n","account":"ABC","api_key":"` + managerKey + `","access":[{"service":"vmware-solutions","roles":[]}]},
			{"id":"x","name":"n","account":"ABC","api_key":"` + managerKey + `"}]
	}`
	path := filepath.Join(t.TempDir(), "seed.json")
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadSeed(path)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"accounts[0].id: ", "accounts[0].name: ", "instances[0].service: ", "instances[0].guid: ", "instances[0].account: ",
		"instances[0].region: ", "users[0].iam_id: ", "users[0].email: ", "users[0].api_key: ", "users[0].access[0].instance: ",
		"users[0].access[0].roles: ", "service_ids[0].id: ", "service_ids[0].access[0].roles: ", "service_ids[1].id: ", "service_ids[1].api_key: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s", want)
		}
	}
	for _, secret := range []string{"short-secret", managerKey} {
		if strings.Contains(err.Error(), secret) {
			t.Error("the error shows an API key")
		}
	}
	for _, c := range []struct{ content, want string }{
		{`{"acounts":[]}`, "acounts"},
		{`{}{}`, "more than one"},
		{``, "EOF"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSeed(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.content, err)
		}
	}
}

func TestSeedCannotMoveAnInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stop()
	seed := testSeed()
	seed.Instances[0].Region = "eu-de"
	cfg := testConfig(w.dir, w.clock.now)
	cfg.SeedFile = writeSeed(t, seed)
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "instances[0]") {
		t.Errorf("error: %v", err)
	}
}

func TestSecondEmulatorFailsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := New(testConfig(w.dir, w.clock.now))
	if err == nil || !strings.Contains(err.Error(), "in use by another emulator") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error: %v", err)
	}
}

func TestConfigProblemsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := New(Config{IAMAddr: "127.0.0.1:0", ResourceControllerAddr: ":7000", KeyProtectAddr: "127.0.0.1:7000", HPCSAddr: "nonsense", TokenLifetime: time.Millisecond})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--data-dir", "--iam-addr", "--key-protect-addr", "--hpcs-addr", "--admin-addr", "--token-lifetime"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

// freeAddress is an address that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startSignal is a log that tells when the emulator has started, and keeps what was written.
type startSignal struct {
	bytes.Buffer
	started chan struct{}
}

func (s *startSignal) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("emulator started")) {
		close(s.started)
	}
	return s.Buffer.Write(p)
}

// TestRun is not parallel: another test's server could take one of its free ports.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.stop()
	cfg := Config{DataDir: w.dir, IAMAddr: freeAddress(t), ResourceControllerAddr: freeAddress(t), KeyProtectAddr: freeAddress(t), HPCSAddr: freeAddress(t), AdminAddr: freeAddress(t)}
	log := &startSignal{started: make(chan struct{})}
	cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	<-log.started
	for _, path := range []string{"/livez", "/readyz"} {
		if r := get(t, "http://"+cfg.AdminAddr+path); r.status != 200 {
			t.Errorf("%s: %d", path, r.status)
		}
	}

	second := cfg
	second.DataDir, second.Log = t.TempDir(), nil
	other, err := New(second)
	if err != nil {
		t.Fatal(err)
	}
	err = other.Run(t.Context())
	_, port, _ := net.SplitHostPort(cfg.IAMAddr)
	if err == nil || !strings.Contains(err.Error(), "port "+port) || !strings.Contains(err.Error(), "--iam-addr") {
		t.Errorf("busy port: %v", err)
	}

	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2 {
		t.Errorf("%d log lines: %s", lines, log.String())
	}
	again, err := New(cfg) // the data file is free again
	if err != nil {
		t.Fatal(err)
	}
	again.db.Close()
}

func TestCallsAreRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	id := u.root()
	u.call("GET", "/keys/"+id+"?search=secret-text", "", "Authorization", "")
	calls := get(t, w.admin+"/emulator/v1/calls")
	list := calls.decode(t)["calls"].([]any)
	want := []string{
		`{"method":"POST","path":"/identity/token","principal":"iam-` + managerID + `","sequence":1,"service":"iam","status":200,"time":"2026-11-23T12:00:00Z"}`,
		`{"instance":"` + kmsInstance + `","method":"POST","path":"/api/v2/keys","principal":"iam-` + managerID + `","sequence":2,"service":"kms","status":201,"time":"2026-11-23T12:00:00Z"}`,
		`{"instance":"` + kmsInstance + `","method":"GET","path":"/api/v2/keys/` + id + `","sequence":3,"service":"kms","status":401,"time":"2026-11-23T12:00:00Z"}`,
	}
	for i, line := range want {
		if got := jsonOf(t, list[i]); got != line {
			t.Errorf("call %d is %s, want %s", i, got, line)
		}
	}
	for _, secret := range []string{managerKey, u.token, "secret-text"} {
		if strings.Contains(string(calls.body), secret) {
			t.Error("the calls show a secret")
		}
	}
}

func TestResourceController(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bearer := "Bearer " + w.token(userKey)
	at := w.rc + "/v2/resource_instances"
	all := get(t, at, "Authorization", bearer)
	body := all.decode(t)
	if next, ok := body["next_url"]; !ok || next != nil || body["rows_count"] != 3.0 {
		t.Errorf("list: %s", all.body)
	}
	crn := "crn:v1:bluemix:public:kms:us-south:a/" + testAccount + ":" + kmsInstance + "::"
	first := body["resources"].([]any)[0].(map[string]any)
	for name, want := range map[string]any{
		"id": crn, "crn": crn, "guid": kmsInstance, "region_id": "us-south", "account_id": testAccount,
		"state": "active", "type": "service_instance", "sub_type": "kms", "resource_id": "ee41347f-b18e-4ca6-bf80-b5467c63f9a6", "name": "keys",
	} {
		if first[name] != want {
			t.Errorf("%s is %v, want %v", name, first[name], want)
		}
	}
	var seen []string
	for next := "/v2/resource_instances?limit=1&sub_type=kms"; next != ""; {
		page := get(t, w.rc+next, "Authorization", bearer).decode(t)
		for _, in := range page["resources"].([]any) {
			seen = append(seen, in.(map[string]any)["guid"].(string))
		}
		next, _ = page["next_url"].(string)
	}
	if strings.Join(seen, " ") != kmsInstance+" "+kmsNeighbour {
		t.Errorf("pages: %v", seen)
	}
	for _, id := range []string{kmsInstance, url.PathEscape(crn), url.QueryEscape(crn)} {
		if r := get(t, at+"/"+id, "Authorization", bearer); r.status != 200 || r.decode(t)["guid"] != kmsInstance {
			t.Errorf("%s: %d %s", id, r.status, r.body)
		}
	}
	if r := get(t, at+"/"+kmsOfOther, "Authorization", bearer); r.status != 404 {
		t.Errorf("instance of another account: %d", r.status)
	}
	if r := get(t, at); r.status != 401 {
		t.Errorf("no token: %d", r.status)
	}
}
