package resourcecontroller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
)

const (
	testAccount  = "4c2ec2b4a2f94c0a8d2bd3f0a1b2c3d4"
	otherAccount = "0f0e0d0c0b0a09080706050403020100"
)

// guid is that of the nth seeded instance; those of otherAccount begin with 9.
func guid(n int) string { return fmt.Sprintf("%d0000000-0000-4000-8000-000000000000", n) }

// rig is the resource controller behind a socket. A caller is an account, a colon and the verbs that
// he may do there.
type rig struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	now   time.Time
	keeps string // why a service keeps its instances
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "data.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range Buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		err := errors.Join(SeedAccount(tx, Account{testAccount, "Example"}), SeedAccount(tx, Account{otherAccount, "Other"}))
		for n := range 5 {
			in := Instance{GUID: guid(n), Service: KeyProtect, Account: testAccount, Region: "us-south", Name: "keys", Created: r.now}
			if n == 4 {
				in.Service, in.Name = HPCS, "crypto"
			}
			err = errors.Join(err, Seed(tx, in))
		}
		return errors.Join(err, Seed(tx, Instance{GUID: guid(9), Service: KeyProtect, Account: otherAccount, Region: "us-south", Name: "keys", Created: r.now}))
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(New(Config{
		DB: db, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.now
		},
		Caller: func(request *http.Request) (string, error) {
			if who := request.Header.Get("Authorization"); who != "" {
				return who, nil
			}
			return "", errors.New("nobody")
		},
		May: func(who, action string, on access.Attributes) bool {
			account, verbs, _ := strings.Cut(who, ":")
			verb := action[strings.LastIndex(action, ".")+1:]
			return on["accountId"] == account && on["resourceGroupId"] == ResourceGroup(account) && slices.Contains(strings.Split(verbs, ","), verb)
		},
		Keeps: func(*bbolt.Tx, Instance) (string, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.keeps, nil
		},
	}))
	r.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

const (
	editor = testAccount + ":retrieve,create,update,delete"
	reads  = testAccount + ":retrieve"
)

func (r *rig) call(by, method, path, body string) (int, map[string]any) {
	r.t.Helper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", by)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var v map[string]any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			r.t.Fatalf("%s %s: %d %q", method, path, response.StatusCode, raw)
		}
	}
	return response.StatusCode, v
}

// guids walks a list to its end.
func (r *rig) guids(by, query string) (found []string, pages int) {
	r.t.Helper()
	found = []string{}
	for path := "/v2/resource_instances" + query; path != ""; pages++ {
		status, page := r.call(by, "GET", path, "")
		if status != 200 {
			r.t.Fatalf("%s: %d %v", path, status, page)
		}
		for _, in := range page["resources"].([]any) {
			found = append(found, in.(map[string]any)["guid"].(string))
		}
		if next, there := page["next_url"]; !there || next != nil && !strings.HasPrefix(next.(string), "/v2/") {
			r.t.Errorf("next_url is %v", next)
		}
		path, _ = page["next_url"].(string)
	}
	return found, pages
}

func TestList(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.advance(time.Hour)
	if status, body := r.call(editor, "PATCH", "/v2/resource_instances/"+guid(1), `{"name":"renamed"}`); status != 200 || body["updated_by"] != editor {
		t.Fatalf("rename: %d %v", status, body)
	}
	for query, want := range map[string]struct {
		numbers []int
		pages   int
	}{
		"":                                {[]int{0, 1, 2, 3, 4}, 1},
		"?limit=2":                        {[]int{0, 1, 2, 3, 4}, 3},
		"?limit=5":                        {[]int{0, 1, 2, 3, 4}, 1},
		"?limit=2&sub_type=kms&name=keys": {[]int{0, 2, 3}, 2},
		"?sub_type=hs-crypto":             {[]int{4}, 1},
		"?guid=" + guid(2):                {[]int{2}, 1},
		"?guid=" + guid(9):                {nil, 1},
		"?resource_id=" + kmsOffering:     {[]int{0, 1, 2, 3}, 1},
		"?resource_plan_id=" + kmsPlan:    {[]int{0, 1, 2, 3}, 1},
		"?resource_group_id=" + ResourceGroup(testAccount): {[]int{0, 1, 2, 3, 4}, 1},
		"?type=service_instance&state=removed":             {nil, 1},
		"?updated_from=2026-11-23T12:30:00Z":               {[]int{1}, 1},
		"?updated_to=2026-11-23T12:30:00Z":                 {[]int{0, 2, 3, 4}, 1},
		"?updated_from=2026-11-24":                         {nil, 1},
	} {
		expected := []string{}
		for _, n := range want.numbers {
			expected = append(expected, guid(n))
		}
		if got, pages := r.guids(reads, query); !slices.Equal(got, expected) || pages != want.pages {
			t.Errorf("%s: %v on %d pages", query, got, pages)
		}
	}
	if got, _ := r.guids(testAccount+":update", ""); len(got) != 0 {
		t.Errorf("without the right to retrieve: %v", got)
	}
	for _, query := range []string{"limit=0", "limit=101", "start=x", "updated_from=noon"} {
		if status, body := r.call(reads, "GET", "/v2/resource_instances?"+query, ""); status != 400 || body["status_code"] != 400.0 {
			t.Errorf("%s: %d %v", query, status, body)
		}
	}
}

func TestRightsAndRequestsAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := "/v2/resource_instances"
	one := at + "/" + guid(0)
	valid := `{"name":"n","target":"eu-de","resource_group":"` + ResourceGroup(testAccount) + `","resource_plan_id":"` + kmsPlan + `"}`
	for name, c := range map[string]struct {
		by, method, path, body string
		status                 int
	}{
		"nobody":                    {"", "GET", at, "", 401},
		"create with rights":        {editor, "POST", at, valid, 201},
		"create without":            {reads, "POST", at, valid, 403},
		"create in another account": {otherAccount + ":create", "POST", at, valid, 403},
		"unknown group":             {editor, "POST", at, strings.Replace(valid, ResourceGroup(testAccount), "x", 1), 403},
		"unknown plan":              {editor, "POST", at, strings.Replace(valid, kmsPlan, "x", 1), 400},
		"no target":                 {editor, "POST", at, strings.Replace(valid, "eu-de", "", 1), 400},
		"bad name":                  {editor, "POST", at, strings.Replace(valid, `"n"`, `"<n>"`, 1), 400},
		"long name":                 {editor, "POST", at, strings.Replace(valid, `"n"`, `"`+strings.Repeat("n", 181)+`"`, 1), 400},
		"no JSON":                   {editor, "POST", at, `{`, 400},
		"rename without rights":     {reads, "PATCH", one, `{"name":"x"}`, 403},
		"rename unseen":             {otherAccount + ":retrieve,update", "PATCH", one, `{"name":"x"}`, 404},
		"rename badly":              {editor, "PATCH", one, `{"name":""}`, 400},
		"plan of another service":   {editor, "PATCH", one, `{"resource_plan_id":"` + offerings[HPCS].plans[0] + `"}`, 400},
		"another plan":              {editor, "PATCH", one, `{"resource_plan_id":"` + offerings[KeyProtect].plans[1] + `"}`, 200},
		"delete without rights":     {reads, "DELETE", one, "", 403},
		"lock without rights":       {reads, "POST", one + "/lock", "", 403},
		"unknown":                   {editor, "GET", at + "/" + guid(8), "", 404},
		"a CRN of another region":   {editor, "GET", at + "/" + url.QueryEscape("crn:v1:bluemix:public:kms:eu-de:a/"+testAccount+":"+guid(0)+"::"), "", 404},
		"its CRN":                   {editor, "GET", at + "/" + url.QueryEscape("crn:v1:bluemix:public:kms:us-south:a/"+testAccount+":"+guid(0)+"::"), "", 200},
		"its CRN, slash encoded":    {editor, "GET", at + "/" + url.PathEscape("crn:v1:bluemix:public:kms:us-south:a/"+testAccount+":"+guid(0)+"::"), "", 200},
	} {
		if status, body := r.call(c.by, c.method, c.path, c.body); status != c.status || status >= 400 && body["error_code"] == nil {
			t.Errorf("%s: %d %v", name, status, body)
		}
	}
	status, operation := r.call(reads, "GET", at+"/"+guid(1)+"/last_operation", "")
	if status != 200 || operation["state"] != "succeeded" || operation["type"] != "create" || operation["async"] != false {
		t.Errorf("last operation: %d %v", status, operation)
	}
}

func TestDeletedInstancesFade(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := "/v2/resource_instances/" + guid(0)
	state := func(want string) {
		t.Helper()
		if status, body := r.call(reads, "GET", one, ""); status != 200 || body["state"] != want {
			t.Errorf("%d %v, want the state %s", status, body, want)
		}
	}
	r.keeps = "CONTAINS_ACTIVE_KEYS: 3"
	status, body := r.call(editor, "DELETE", one, "")
	if details, _ := body["details"].(string); status != 422 || body["error_code"] != "RC-ServiceBrokerErrorResponse" || !json.Valid([]byte(details)) || !strings.Contains(details, r.keeps) {
		t.Errorf("kept by its service: %d %v", status, body)
	}
	state("active")
	r.keeps = ""
	if status, body := r.call(editor, "DELETE", one+"?recursive=true", ""); status != 202 || body != nil {
		t.Fatalf("delete: %d %v", status, body)
	}
	state("pending_reclamation")
	for _, request := range [][2]string{{"DELETE", ""}, {"PATCH", `{"name":"x"}`}} {
		if status, body := r.call(editor, request[0], one, request[1]); status != 422 {
			t.Errorf("%s of a deleted instance: %d %v", request[0], status, body)
		}
	}
	r.advance(7*24*time.Hour - time.Second)
	state("pending_reclamation")
	r.advance(time.Second)
	state("removed")
	if got, _ := r.guids(reads, "?state=removed"); !slices.Equal(got, []string{guid(0)}) {
		t.Errorf("removed: %v", got)
	}
}
