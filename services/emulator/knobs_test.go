package emulator

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// turn sets a knob through the admin address.
func (w *world) turn(knob, body string) reply {
	w.t.Helper()
	r := w.knob(http.MethodPut, knob, body)
	if r.status != http.StatusOK {
		w.t.Fatalf("PUT %s: %d %s", knob, r.status, r.body)
	}
	return r
}

func (w *world) knob(method, knob, body string) reply {
	w.t.Helper()
	req, err := http.NewRequest(method, w.admin+"/emulator/v1/"+knob, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	return send(w.t, req)
}

// try is call for requests that may get no answer; it uses a connection of its own, because a client
// repeats what fails on an old one.
func (u user) try(method, path, body string) (int, error) {
	u.w.t.Helper()
	req, err := http.NewRequest(method, u.base+"/api/v2"+path, strings.NewReader(body))
	if err != nil {
		u.w.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Authorization", "Bearer "+u.token)
	req.Header.Set("Bluemix-Instance", u.instance)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// statuses are those of n equal calls, 0 for no answer.
func (u user) statuses(n int, method, path string) string {
	u.w.t.Helper()
	var out []string
	for range n {
		status, _ := u.try(method, path, "")
		out = append(out, fmt.Sprint(status))
	}
	return strings.Join(out, " ")
}

// TestRulesAreScopedAndCounted turns each knob of rules for the next two wraps of one instance, with
// what it makes of them.
func TestRulesAreScopedAndCounted(t *testing.T) {
	t.Parallel()
	const scope = `"service":"kms","instance":"` + kmsInstance + `","method":"POST","path":"/api/v2/keys/*/actions/wrap","times":2`
	for _, c := range []struct{ knob, effect, want string }{
		{"errors", ``, "500 500 200"},
		{"errors", `,"status":503`, "503 503 200"},
		{"throttling", ``, "429 429 200"},
		{"lost-answers", ``, "0 0 200"},
		{"lost-answers", `,"status":502`, "502 502 200"},
		{"outages", ``, "0 0 200"},
		{"outages", `,"status":503`, "503 503 200"},
		{"withdrawals", ``, "401 401 200"},
		{"latency", `,"median_ms":1`, "200 200 200"},
		{"latency", `,"median_ms":1,"p99_ms":2`, "200 200 200"},
	} {
		t.Run(c.knob, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			u := w.user(managerKey, kmsInstance)
			neighbour := user{w, w.kms, u.token, kmsNeighbour}
			mine, theirs := "/keys/"+u.root(), "/keys/"+neighbour.root()
			w.turn(c.knob, `{"rules":[{`+scope+c.effect+`}]}`)
			if got := u.statuses(2, "GET", mine) + " " + neighbour.statuses(2, "POST", theirs+"/actions/wrap"); got != "200 200 200 200" {
				t.Errorf("calls out of scope: %s", got)
			}
			if got := u.statuses(1, "POST", mine+"/actions/wrap"); got != c.want[:len(got)] {
				t.Errorf("first call: %s, want %s", got, c.want)
			}
			if shown := string(w.knob("GET", c.knob, "").body); !strings.Contains(shown, `"times":1`) {
				t.Errorf("after the first call: %s", shown)
			}
			if got := u.statuses(2, "POST", mine+"/actions/wrap"); !strings.HasSuffix(c.want, " "+got) {
				t.Errorf("the calls after: %s, want %s", got, c.want)
			}
			if shown := strings.TrimSpace(string(w.knob("GET", c.knob, "").body)); shown != `{"rules":[]}` {
				t.Errorf("a spent rule stays: %s", shown)
			}
			w.turn(c.knob, `{"rules":[{"service":"hs-crypto"`+c.effect+`},{`+scope+c.effect+`}]}`)
			if r := w.knob("DELETE", c.knob, ""); r.status != http.StatusNoContent {
				t.Errorf("DELETE: %d", r.status)
			}
			if got := u.statuses(1, "POST", mine+"/actions/wrap"); got != "200" {
				t.Errorf("after DELETE: %s", got)
			}
		})
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	run := func() string {
		w.turn("errors", `{"rules":[{"service":"kms","rate":0.3}]}`)
		return u.statuses(100, "GET", "/keys")
	}
	first := run()
	if failed := strings.Count(first, "500"); failed < 15 || failed > 45 {
		t.Errorf("%d of 100 calls failed at rate 0.3", failed)
	}
	if again := run(); again != first {
		t.Error("the same knob set again draws other calls")
	}
}

func TestThrottlingTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	w.turn("throttling", `{"rules":[{"service":"kms","times":1,"retry_after":7},{"service":"kms","times":1}]}`)
	for _, want := range []string{"7", ""} {
		r := u.call("GET", "/keys", "")
		if _, there := r.header["Retry-After"]; r.status != 429 || r.header.Get("Retry-After") != want || there != (want != "") {
			t.Errorf("%d, Retry-After %q, want %q", r.status, r.header.Get("Retry-After"), want)
		}
	}
	w.turn("throttling", `{"rules":[{"service":"iam","path":"/identity/"}]}`)
	if r := w.postToken("/identity/token", nil); r.status != 429 {
		t.Errorf("token: %d", r.status)
	}
	if r := get(t, w.iam+"/v1/apikeys/details"); r.status != 401 {
		t.Errorf("a path that the pattern does not cover: %d", r.status)
	}
}

// TestLostAnswersTookEffect: after a failure that hides a success the key is there; a failure stays
// what it is.
func TestLostAnswersTookEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	w.turn("lost-answers", `{"rules":[{"method":"POST","path":"/api/v2/keys","status":500}]}`)
	u.must(500, "POST", "/keys", newKeyBody(`"name":"made"`))
	if r := u.must(400, "POST", "/keys", newKeyBody(`"name":"x"`)); r.code(t) != "INVALID_FIELD_ERR" || r.header.Get("Correlation-Id") == "" {
		t.Errorf("a refusal: %s", r.body)
	}
	w.turn("errors", `{"rules":[{"method":"POST","path":"/api/v2/keys"}]}`)
	u.must(500, "POST", "/keys", newKeyBody(`"name":"not made"`))
	if list := u.must(200, "GET", "/keys", "").resources(t); len(list) != 1 || list[0]["name"] != "made" {
		t.Errorf("keys: %v", list)
	}
}

// TestHangs waits for the hung call to arrive, sees that it took effect, and lets go of it.
func TestHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	w.turn("hangs", `{"rules":[{"method":"POST","path":"/api/v2/keys","takes_effect":true}]}`)
	ended := make(chan error, 1)
	go func() {
		_, err := u.try("POST", "/keys", newKeyBody(`"name":"made"`))
		ended <- err
	}()
	calls := get(t, w.admin+"/emulator/v1/calls?method=POST&path=/api/v2/keys&wait_s=20").decode(t)["calls"].([]any)
	if len(calls) != 1 || calls[0].(map[string]any)["status"] != 0.0 {
		t.Fatalf("calls: %v", calls)
	}
	for total := ""; total != "1"; { // the effect comes after the arrival
		total = u.must(200, "HEAD", "/keys", "").header.Get("Key-Total")
	}
	select {
	case err := <-ended:
		t.Fatalf("the call ended: %v", err)
	default:
	}
	w.knob("DELETE", "hangs", "")
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the call that hung: %v", err)
	}
}

// TestLatencyEndsWhenItIsTurnedOff delays a call for an hour, unless the knob is turned.
func TestLatencyEndsWhenItIsTurnedOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	w.turn("latency", `{"rules":[{"service":"kms","median_ms":3600000}]}`)
	answered := make(chan int, 1)
	go func() {
		status, _ := u.try("GET", "/keys", "")
		answered <- status
	}()
	get(t, w.admin+"/emulator/v1/calls?service=kms&wait_s=20")
	select {
	case status := <-answered:
		t.Fatalf("answered at once: %d", status)
	default:
	}
	w.knob("DELETE", "latency", "")
	if status := <-answered; status != 200 {
		t.Errorf("status %d", status)
	}
}

func TestOutagesOfServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	hpcs := user{w, w.hpcs, u.token, hpcsInstance}
	w.turn("outages", `{"rules":[{"service":"hs-crypto"},{"service":"resource-controller","status":503}]}`)
	if got := u.statuses(1, "GET", "/keys") + " " + hpcs.statuses(2, "GET", "/keys"); got != "200 0 0" {
		t.Errorf("Key Protect, HPCS: %s", got)
	}
	if r := get(t, w.rc+"/v2/resource_instances"); r.status != 503 {
		t.Errorf("resource controller: %d", r.status)
	}
	if r := get(t, w.iam+"/identity/keys"); r.status != 200 {
		t.Errorf("IAM: %d", r.status)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	id := u.root()
	u.must(204, "POST", "/keys/"+id+"/actions/rotate", "")
	u.must(409, "POST", "/keys/"+id+"/actions/rotate", "")
	shown := w.turn("clock", `{"offset_s":3599}`).decode(t)
	if want := w.clock.now().Add(3599 * time.Second).Format(time.RFC3339); shown["now"] != want || shown["offset_s"] != 3599.0 {
		t.Errorf("clock: %v, want %s", shown, want)
	}
	u.must(409, "POST", "/keys/"+id+"/actions/rotate", "")
	w.turn("clock", `{"offset_s":3600}`)
	u.must(401, "GET", "/keys", "") // the token has expired
	u.token = w.token(managerKey)
	u.must(204, "POST", "/keys/"+id+"/actions/rotate", "")
	w.knob("DELETE", "clock", "")
	if now := w.knob("GET", "clock", "").decode(t)["now"]; now != w.clock.now().Format(time.RFC3339) {
		t.Errorf("after DELETE it is %v", now)
	}
}

// TestWithdrawalAfterADelay: decisions are cached, so a permission lasts for a while.
func TestWithdrawalAfterADelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	root := "/keys/" + u.root()
	w.turn("withdrawals", `{"rules":[{"instance":"`+kmsInstance+`","path":"/api/v2/keys/*/actions/","after_s":60}]}`)
	u.must(200, "POST", root+"/actions/wrap", "")
	w.clock.advance(time.Minute)
	if r := u.must(401, "POST", root+"/actions/wrap", ""); r.code(t) != "" {
		t.Errorf("withdrawn: %s", r.body)
	}
	u.must(200, "GET", root, "")
	w.knob("DELETE", "withdrawals", "")
	u.must(200, "POST", root+"/actions/wrap", "")
}

func TestCallsAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user(managerKey, kmsInstance)
	id := u.root()
	u.call("POST", "/keys/"+id+"/actions/wrap", "")
	u.call("GET", "/keys/"+id+"/metadata", "", "Bluemix-Instance", kmsNeighbour)
	get(t, w.rc+"/v2/resource_instances/crn%3Aa%2Fb")
	list := func(query string) string {
		t.Helper()
		body := get(t, w.admin+"/emulator/v1/calls?"+query).decode(t)
		var out []string
		for _, c := range body["calls"].([]any) {
			out = append(out, fmt.Sprint(c.(map[string]any)["sequence"]))
		}
		return strings.Join(out, " ") + fmt.Sprintf(" of %v", body["last_sequence"])
	}
	for query, want := range map[string]string{
		"":                              "1 2 3 4 5 of 5",
		"service=kms":                   "2 3 4 of 5",
		"service=kms&since=2":           "3 4 of 5",
		"instance=" + kmsNeighbour:      "4 of 5",
		"method=GET":                    "4 5 of 5",
		"path=/api/v2/keys/*":           " of 5",
		"path=/api/v2/keys/":            "3 4 of 5",
		"path=/api/v2/keys":             "2 of 5",
		"path=/api/v2/keys/*/actions/":  "3 of 5",
		"path=/v2/resource_instances/*": "5 of 5",
		"since=5":                       " of 5",
	} {
		if got := list(query); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
	w.turn("calls", `{"kept":2}`)
	if got := list(""); got != "4 5 of 5" {
		t.Errorf("two kept: %s", got)
	}
	u.call("GET", "/keys", "")
	if got := list(""); got != "5 6 of 6" {
		t.Errorf("two kept, one more call: %s", got)
	}
	w.turn("calls", `{"kept":100}`)
	u.call("GET", "/keys", "")
	if got := list(""); got != "5 6 7 of 7" {
		t.Errorf("a hundred kept: %s", got)
	}
	w.knob("DELETE", "calls", "")
	u.call("GET", "/keys", "")
	if got := list(""); got != "8 of 8" {
		t.Errorf("after DELETE: %s", got)
	}
}

func TestKnobProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct{ knob, body, want string }{
		{"errors", `{"rules":[{"service":"cos"}]}`, "service"},
		{"errors", `{"rules":[{"path":"keys"}]}`, "path"},
		{"errors", `{"rules":[{"path":"/["}]}`, "path"},
		{"errors", `{"rules":[{"times":0}]}`, "times"},
		{"errors", `{"rules":[{"rate":1.5}]}`, "rate"},
		{"errors", `{"rules":[{"rate":0}]}`, "rate"},
		{"errors", `{"rules":[{"status":404}]}`, "status"},
		{"errors", `{"rules":[{"median_ms":1}]}`, "median_ms"},
		{"errors", `{"rules":[null]}`, "null"},
		{"errors", `{}{}`, "more than one"},
		{"errors", `{"rules":[{"after_s":-1}]}`, "after_s"},
		{"latency", `{"rules":[{}]}`, "median_ms"},
		{"latency", `{"rules":[{"median_ms":2,"p99_ms":1}]}`, "p99_ms"},
		{"throttling", `{"rules":[{"retry_after":-1}]}`, "retry_after"},
		{"clock", `{"offset_s":99999999999}`, "offset_s"},
		{"calls", `{"kept":0}`, "kept"},
	} {
		r := w.knob("PUT", c.knob, c.body)
		if text, _ := r.decode(t)["error"].(string); r.status != 400 || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s", c.knob, c.body, r.status, r.body)
		}
	}
	for _, query := range []string{"since=x", "wait_s=99", "service=cos", "path=keys"} {
		if r := get(t, w.admin+"/emulator/v1/calls?"+query); r.status != 400 {
			t.Errorf("%s: %d", query, r.status)
		}
	}
	cfg := testConfig(t.TempDir(), nil)
	cfg.Knobs = map[string]string{"colour": "{}", "clock": `{"offset_s":"x"}`}
	_, err := New(cfg)
	if err == nil || !strings.Contains(err.Error(), "--colour") || !strings.Contains(err.Error(), "--clock") {
		t.Errorf("knobs of the command line: %v", err)
	}
}

// TestSigningKeysRollOver: tokens of the older keys are good until these are retired.
func TestSigningKeysRollOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.user(managerKey, kmsInstance)
	published := func() int { return len(get(t, w.iam+"/identity/keys").decode(t)["keys"].([]any)) }
	before := published()
	w.turn("signing-keys", `{}`)
	if n := published(); n != before+1 {
		t.Errorf("%d signing keys after the roll-over, %d before", n, before)
	}
	fresh := w.user(managerKey, kmsInstance)
	old.must(200, "GET", "/keys", "")
	w.knob("DELETE", "signing-keys", "")
	if n := published(); n != 1 {
		t.Errorf("%d signing keys after the older ones were retired", n)
	}
	old.must(401, "GET", "/keys", "")
	fresh.must(200, "GET", "/keys", "")
}
