package control_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/obs"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
	"github.com/kmip-for-vmware/kmip/services/control"
)

var (
	pathLine   = regexp.MustCompile(`^  (/\S*):$`)
	methodLine = regexp.MustCompile(`^    (get|put|post|delete|patch|head|options):$`)
)

// documented returns the routes of an OpenAPI document of ours, "GET /path".
func documented(t *testing.T, document string) []string {
	t.Helper()
	var routes []string
	path := ""
	for line := range strings.Lines(document) {
		line = strings.TrimSuffix(line, "\n")
		if m := pathLine.FindStringSubmatch(line); m != nil {
			path = m[1]
		} else if m := methodLine.FindStringSubmatch(line); m != nil {
			routes = append(routes, strings.ToUpper(m[1])+" "+path)
		}
	}
	if len(routes) < 3 {
		t.Fatalf("found only %v", routes)
	}
	slices.Sort(routes)
	return routes
}

func TestServedRoutesAreDocumented(t *testing.T) {
	if served, want := control.Routes(), documented(t, api.CustomerDocument); !slices.Equal(served, want) {
		t.Errorf("customer API:\nserved     %q\ntable      %q\ndocumented %q", served, control.TableRoutes(), want)
	}
	if table, served := control.TableRoutes(), control.Routes(); !slices.Equal(table, served) {
		t.Errorf("table %q\nserved %q", table, served)
	}
	if served, want := control.AdminRoutes(), documented(t, api.AdminDocument); !slices.Equal(served, want) {
		t.Errorf("admin:\nserved     %q\ndocumented %q", served, want)
	}
}

func TestAdminListener(t *testing.T) {
	c := start(t)
	for _, route := range documented(t, api.AdminDocument) {
		path := strings.TrimPrefix(route, "GET ")
		if r := c.send(t, "GET", c.admin+path, "", ""); r.status != http.StatusOK || r.body == "" {
			t.Errorf("%s: %d %q", path, r.status, r.body)
		}
	}
	for base, document := range map[string]string{c.url: api.CustomerDocument, c.admin: api.AdminDocument} {
		r := c.send(t, "GET", base+"/openapi.yaml", "", "")
		if r.body != document || r.header.Get("Content-Type") != "application/yaml" {
			t.Errorf("%s serves another document, as %s", base, r.header.Get("Content-Type"))
		}
	}
	c.call(t, "GET", "/v1/instances", "")
	if r := c.send(t, "GET", c.admin+"/v1/instances", c.cloud.token(t, account, nil), ""); r.status != http.StatusNotFound {
		t.Errorf("the admin listener serves customers: %d", r.status)
	}
	if m := c.send(t, "GET", c.admin+"/metrics", "", "").body; !strings.Contains(m, `kmip_control_request_seconds_count{route="GET /v1/instances",status="200"} 1`) {
		t.Errorf("metrics:\n%s", m)
	}
}

func TestNotReadyWithoutDatabase(t *testing.T) {
	environment := settings(t, newIBMCloud(t), "postgres://kmip_control@127.0.0.1:1/nowhere?connect_timeout=1")
	config, err := control.ReadConfig(environment)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cloud := newIBMCloud(t)
	config.IAMURL = cloud.iam.URL
	p, err := control.New(ctx, config, obs.NewLogger(&transcript{}, "kmip-control"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	c := &cell{url: "http://" + p.API().String(), admin: "http://" + p.Admin().String(), cloud: cloud, seen: &transcript{}}
	if r := c.send(t, "GET", c.admin+"/readyz", "", ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("ready: %d %s", r.status, r.body)
	}
	if r := c.send(t, "GET", c.admin+"/livez", "", ""); r.status != http.StatusOK {
		t.Errorf("alive: %d %s", r.status, r.body)
	}
	r := c.call(t, "GET", "/v1/instances", "")
	refusal(t, r, http.StatusServiceUnavailable, api.ErrorCodeServiceUnavailable, "", "")
	if strings.Contains(r.body, "127.0.0.1") || strings.Contains(r.body, "nowhere") {
		t.Errorf("shows the database: %s", r.body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRequestsOutsideTheContract(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	token := c.cloud.token(t, account, nil)
	for name, tc := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		code               api.ErrorCode
		target, sentence   string
	}{
		"unknown path":        {"GET", "/v2/instances", "", nil, 404, api.ErrorCodeNotFound, "", "nothing at this path"},
		"trailing slash":      {"GET", "/v1/instances/", "", nil, 404, api.ErrorCodeNotFound, "", "nothing at this path"},
		"method":              {"PATCH", "/v1/instances", "", nil, 405, api.ErrorCodeMethodNotAllowed, "", "This path allows GET, POST."},
		"method of one":       {"POST", path, "", nil, 405, api.ErrorCodeMethodNotAllowed, "", "This path allows DELETE, GET, PATCH."},
		"long target":         {"GET", "/v1/instances?" + strings.Repeat("a", 8000), "", nil, 414, api.ErrorCodeURITooLong, "", "8000 bytes"},
		"unknown parameter":   {"GET", "/v1/instances?limit=1&page=2", "", nil, 400, api.ErrorCodeInvalidValue, "page", "`page` is unknown. This path knows `name`, `status`, `start`, `limit`"},
		"a parameter":         {"DELETE", path + "?force=true", "", nil, 400, api.ErrorCodeInvalidValue, "force", "`force` is unknown: this path takes none"},
		"repeated parameter":  {"GET", "/v1/instances?limit=1&limit=2", "", nil, 400, api.ErrorCodeInvalidValue, "limit", "more than once"},
		"empty parameter":     {"GET", "/v1/instances?name=", "", nil, 400, api.ErrorCodeInvalidValue, "name", "is empty"},
		"parameter's form":    {"GET", "/v1/instances?limit=x", "", nil, 400, api.ErrorCodeInvalidValue, "limit", "wrong form"},
		"limit 0":             {"GET", "/v1/instances?limit=0", "", nil, 400, api.ErrorCodeInvalidValue, "limit", "from 1 to 100"},
		"limit 101":           {"GET", "/v1/instances?limit=101", "", nil, 400, api.ErrorCodeInvalidValue, "limit", "from 1 to 100"},
		"no page":             {"GET", "/v1/instances?start=x", "", nil, 400, api.ErrorCodeInvalidValue, "start", "names no page"},
		"another's page":      {"GET", "/v1/instances?start=00000000-0000-4000-8000-000000000000", "", nil, 400, api.ErrorCodeInvalidValue, "start", "names no page"},
		"no status":           {"GET", "/v1/instances?status=gone", "", nil, 400, api.ErrorCodeInvalidValue, "status", "removing"},
		"no name":             {"GET", "/v1/instances?name=%00", "", nil, 400, api.ErrorCodeInvalidValue, "name", "spelling"},
		"too many VMs":        {"GET", "/v1/key_estimate?encrypted_vms=1000001", "", nil, 400, api.ErrorCodeInvalidValue, "encrypted_vms", "from 0 to 1000000"},
		"fewer than no VMs":   {"GET", "/v1/key_estimate?encrypted_vms=-1", "", nil, 400, api.ErrorCodeInvalidValue, "encrypted_vms", "from 0 to 1000000"},
		"broken query":        {"DELETE", path + "?%zz", "", nil, 400, api.ErrorCodeBadRequest, "", "not well-formed"},
		"conditional":         {"DELETE", path, "", []string{"If-None-Match", `"x"`}, 400, api.ErrorCodeBadRequest, "If-None-Match", "does not take the header"},
		"conditional POST":    {"POST", "/v1/instances", `{}`, []string{"If-Match", `"x"`}, 400, api.ErrorCodeBadRequest, "If-Match", "does not take the header"},
		"no entity tag":       {"DELETE", path, "", []string{"If-Match", `x`}, 400, api.ErrorCodeInvalidValue, "If-Match", "quotation marks"},
		"weak entity tag":     {"DELETE", path, "", []string{"If-Match", `W/"x"`}, 400, api.ErrorCodeInvalidValue, "If-Match", "quotation marks"},
		"key where no use":    {"POST", path + "/restore", "", []string{"Idempotency-Key", "x"}, 400, api.ErrorCodeBadRequest, "Idempotency-Key", "does not take the header"},
		"key's form":          {"POST", "/v1/instances", `{}`, []string{"Idempotency-Key", "a b"}, 400, api.ErrorCodeInvalidValue, "Idempotency-Key", "1 to 64 letters"},
		"key's length":        {"POST", "/v1/instances", `{}`, []string{"Idempotency-Key", strings.Repeat("a", 65)}, 400, api.ErrorCodeInvalidValue, "Idempotency-Key", "1 to 64 letters"},
		"patch as JSON":       {"PATCH", path, `{"name":"b"}`, []string{"If-Match", "*"}, 415, api.ErrorCodeUnsupportedMediaType, "Content-Type", "application/merge-patch+json"},
		"patch of id":         {"PATCH", path, `{"id":"b"}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "id", "unknown"},
		"name patched away":   {"PATCH", path, `{"name":null}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "name", "is null"},
		"no cache":            {"PATCH", path, `{"cache_seconds":-1}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "cache_seconds", "from 0 to 3600"},
		"a long cache":        {"PATCH", path, `{"cache_seconds":3601}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "cache_seconds", "from 0 to 3600"},
		"a long grace":        {"PATCH", path, `{"outage_grace_seconds":86401}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "outage_grace_seconds", "from 0 to 86400"},
		"part of a second":    {"PATCH", path, `{"cache_seconds":0.5}`, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeInvalidValue, "cache_seconds", "has to be"},
		"patch of any state":  {"PATCH", path, `{"name":"b"}`, []string{"Content-Type", "application/merge-patch+json"}, 400, api.ErrorCodeMissingValue, "If-Match", "is missing"},
		"no content type":     {"POST", "/v1/instances", `{}`, []string{"Content-Type", ""}, 415, api.ErrorCodeUnsupportedMediaType, "Content-Type", "application/json"},
		"other content type":  {"POST", "/v1/instances", `{}`, []string{"Content-Type", "text/plain"}, 415, api.ErrorCodeUnsupportedMediaType, "Content-Type", "application/json"},
		"no body":             {"POST", "/v1/instances", "", []string{"Content-Type", "application/json"}, 400, api.ErrorCodeBadRequest, "", "not a JSON object"},
		"not JSON":            {"POST", "/v1/instances", "name=a", nil, 400, api.ErrorCodeBadRequest, "", "not valid JSON"},
		"array":               {"POST", "/v1/instances", "[]", nil, 400, api.ErrorCodeBadRequest, "", "not a JSON object"},
		"cut off":             {"POST", "/v1/instances", `{"name":"b`, nil, 400, api.ErrorCodeBadRequest, "", "JSON"},
		"two objects":         {"POST", "/v1/instances", `{}{}`, nil, 400, api.ErrorCodeBadRequest, "", "goes on"},
		"not UTF-8":           {"POST", "/v1/instances", "{\"name\":\"\xff\"}", nil, 400, api.ErrorCodeBadRequest, "", "UTF-8"},
		"unknown field":       {"POST", "/v1/instances", `{"colour":"b"}`, nil, 400, api.ErrorCodeInvalidValue, "colour", "unknown"},
		"other case":          {"POST", "/v1/instances", `{"Name":"b"}`, nil, 400, api.ErrorCodeInvalidValue, "Name", "unknown"},
		"repeated":            {"POST", "/v1/instances", `{"name":"b","name":"b"}`, nil, 400, api.ErrorCodeInvalidValue, "name", "more than once"},
		"null":                {"POST", "/v1/instances", `{"name":null}`, nil, 400, api.ErrorCodeInvalidValue, "name", "is null"},
		"wrong type":          {"POST", "/v1/instances", `{"name":[1]}`, nil, 400, api.ErrorCodeInvalidValue, "name", "has to be a string"},
		"many unknown":        {"POST", "/v1/instances", manyFields(200), nil, 400, api.ErrorCodeInvalidValue, "f0", "unknown"},
		"large":               {"POST", "/v1/instances", `{"name":"` + strings.Repeat("a", 4<<10) + `"}`, nil, 413, api.ErrorCodeTooLarge, "", "4096 bytes"},
		"large certificate":   {"POST", path + "/client_certificates", `{"name":"` + strings.Repeat("a", 32<<10) + `"}`, nil, 413, api.ErrorCodeTooLarge, "", "32768 bytes"},
		"key manager, a type": {"PUT", path + "/key_manager", `{"type":1}`, nil, 400, api.ErrorCodeInvalidValue, "type", "has to be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.send(t, tc.method, c.url+tc.path, token, tc.body, tc.header...)
			refusal(t, r, tc.status, tc.code, tc.target, tc.sentence)
			if allow := r.header.Get("Allow"); tc.status == http.StatusMethodNotAllowed && (allow == "" || !strings.Contains(r.body, "This path allows "+allow+".")) {
				t.Errorf("Allow %q", allow)
			}
		})
	}
	list := read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances", ""), http.StatusOK)
	if len(list.Instances) != 1 || list.Instances[0].Name != "a" || list.Instances[0].Status != api.InstanceStatusInactive {
		t.Errorf("a refused request left something: %+v", list)
	}
}

func manyFields(n int) string {
	fields := make([]string, n)
	for i := range fields {
		fields[i] = fmt.Sprintf(`"f%d":1`, i)
	}
	return "{" + strings.Join(fields, ",") + "}"
}

func TestRequestIDs(t *testing.T) {
	c := start(t)
	uuid := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	r := c.send(t, "GET", c.url+"/v1/instances", "", "", "X-Request-ID", "mine-1, 2_3", "X-Correlation-ID", "theirs")
	if r.header.Get("X-Request-ID") != "mine-1, 2_3" || !uuid.MatchString(r.header.Get("X-Correlation-ID")) {
		t.Errorf("%v", r.header)
	}
	if r := c.send(t, "GET", c.url+"/v1/instances", "", "", "X-Request-ID", `"<script>"`); !uuid.MatchString(r.header.Get("X-Request-ID")) {
		t.Errorf("%v", r.header)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if log := c.log.String(); !strings.Contains(log, `"request_id":"mine-1, 2_3","trace":"`+r.header.Get("X-Correlation-ID")+`","route":"GET /v1/instances","status":401`) {
		t.Errorf("log:\n%s", log)
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	problems := func(environment map[string]string) string {
		t.Helper()
		config, err := control.ReadConfig(environment)
		if err != nil {
			t.Fatal(err)
		}
		_, err = control.New(t.Context(), config, obs.NewLogger(&transcript{}, "kmip-control"))
		if err == nil {
			t.Fatal("accepted")
		}
		return err.Error()
	}
	lines := strings.Split(problems(nil), "\n")
	for _, variable := range []string{"DATABASE_URL", "KMIP_KEY_MANAGER_ENDPOINTS", "KMIP_SEALING_KEYS_FILE", "KMIP_SHARED_ENDPOINTS", "KMIP_CA_FILE", "KMIP_TLS_CERTIFICATE_FILE"} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, variable+": ") && strings.Contains(l, "set it to") })
		if i < 0 {
			t.Errorf("nothing about %s in %q", variable, lines)
		}
	}
	if len(lines) != 6 {
		t.Errorf("%d problems: %q", len(lines), lines)
	}

	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newAuthority(t)
	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	stranger := authority{key: write("key", other.key), shared: write("shared", other.shared)}
	good := settings(t, newIBMCloud(t), pgtest.URL(t, pgtest.Database(t), "kmip_control"))
	for variable, values := range map[string][]string{
		"DATABASE_URL":                 {"host=x", "mysql://x"},
		"KMIP_REGION":                  {"Dallas", "us-south/x"},
		"KMIP_API_ADDRESS":             {"8080", "127.0.0.1:x"},
		"KMIP_ADMIN_ADDRESS":           {"nowhere"},
		"KMIP_IAM_URL":                 {"iam.cloud.ibm.com", "http://iam.cloud.ibm.com"},
		"KMIP_RESOURCE_CONTROLLER_URL": {"resource-controller.cloud.ibm.com", "http://resource-controller.cloud.ibm.com", "https://x/v2"},
		"KMIP_KEY_MANAGER_ENDPOINTS":   {"kms", "kms/us-south=ftp://x"},
		"KMIP_SEALING_KEYS_FILE":       {"/nonexistent/file", bad},
		"KMIP_SHARED_ENDPOINTS":        {"name", "name:0", "Name:1", "name:70000", "a:1,,b:2", "[::1]:1"},
		"KMIP_CA_FILE":                 {"/nonexistent/file", bad},
		"KMIP_CA_KEY_FILE":             {"", "/nonexistent/file", bad, stranger.key},
		"KMIP_TLS_CERTIFICATE_FILE":    {"", bad, stranger.shared},
		"KMIP_DEDICATED_ENDPOINTS":     {"kmip.test", "kmip.test:7000", "kmip.test:7001-7000", "Kmip.test:1-2", "kmip.test:0-5", ":1-2", "kmip.test:5697-5700"},
		"KMIP_SERVICE_API_KEY_FILE":    {"/nonexistent/file"},
		"KMIP_PUBLIC_URL":              {"kmip.test", "ftp://kmip.test", "https://kmip.test/api", "https://user@kmip.test"},
	} {
		for _, value := range values {
			environment := map[string]string{}
			for k, v := range good {
				environment[k] = v
			}
			environment[variable] = value
			if text := problems(environment); !strings.HasPrefix(text, variable+": ") && !strings.Contains(text, variable) {
				t.Errorf("%s=%s: %s", variable, value, text)
			}
		}
	}
}
