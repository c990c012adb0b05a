package control_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
)

func TestInstanceLifeCycle(t *testing.T) {
	c := start(t)
	r := c.call(t, "POST", "/v1/instances", `{"name":"vsphere-dallas"}`)
	made := read[api.Instance](t, r, http.StatusAccepted)
	if r.header.Get("Location") != "/v1/instances/"+made.ID || made.Status != api.InstanceStatusInactive ||
		!regexp.MustCompile(`^"[0-9a-z]{16,}"$`).MatchString(r.header.Get("ETag")) || made.Name != "vsphere-dallas" || made.Region != "us-south" || made.KeyManager != nil ||
		made.CRN != "crn:v1:bluemix:public:vmware-solutions:us-south:a/"+account+":"+made.ID+"::" {
		t.Errorf("%s %s", r.header.Get("Location"), r.body)
	}
	if d := time.Since(made.CreatedAt); d < 0 || d > time.Minute || !regexp.MustCompile(`"created_at":"[-0-9]{10}T[0-9:]{8}Z"`).MatchString(r.body) {
		t.Errorf("created_at %s", r.body)
	}
	path := "/v1/instances/" + made.ID
	shown := c.call(t, "GET", path, "")
	got := read[api.Instance](t, shown, http.StatusOK)
	if all := got.Conditions; len(all) != 1 || all[0].Type != api.ConditionTypeClientCertificates || all[0].Reason != "none" {
		t.Errorf("conditions %+v", all)
	}
	if !reflect.DeepEqual(got, made) || shown.header.Get("ETag") != r.header.Get("ETag") {
		t.Errorf("got %s %s, made %s %s", shown.header.Get("ETag"), shown.body, r.header.Get("ETag"), r.body)
	}
	second := read[api.Instance](t, c.call(t, "POST", "/v1/instances", `{}`), http.StatusAccepted)
	if !regexp.MustCompile(`^kmip-[a-z]{2}$`).MatchString(second.Name) {
		t.Errorf("default name %q", second.Name)
	}
	list := read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances", ""), http.StatusOK).Instances
	if len(list) != 2 || !reflect.DeepEqual(list, []api.Instance{made, second}) {
		t.Errorf("list %+v", list)
	}

	endpoints := read[api.EndpointCollection](t, c.call(t, "GET", path+"/endpoints", ""), http.StatusOK)
	if len(endpoints.Endpoints) != 2 || endpoints.Endpoints[1].Hostname != "kmip-2.test" || endpoints.Endpoints[1].Port != 5697 {
		t.Errorf("endpoints %+v", endpoints)
	}
	for _, e := range endpoints.Endpoints {
		provesItself(t, e, endpoints.CACertificate)
	}
}

// provesItself checks an endpoint's chain and fingerprints.
func provesItself(t *testing.T, e api.Endpoint, ca string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) || len(e.CertificateChain) != 2 || e.CertificateChain[1] != ca {
		t.Fatalf("chain %q below %q", e.CertificateChain, ca)
	}
	block, _ := pem.Decode([]byte(e.CertificateChain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if e.Sha256Fingerprint != fmt.Sprintf("%x", sha256.Sum256(leaf.Raw)) || e.Sha1Fingerprint != fmt.Sprintf("%x", sha1.Sum(leaf.Raw)) {
		t.Errorf("fingerprints %s, %s", e.Sha256Fingerprint, e.Sha1Fingerprint)
	}
}

// Each window is off until it is set, alone or with others, and takes a revision.
func TestWindows(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	last := ""
	for _, step := range []struct {
		patch        string
		cache, grace int32
	}{
		{`{}`, 0, 0},
		{`{"cache_seconds":60}`, 60, 0},
		{`{"outage_grace_seconds":86400}`, 60, 86400},
		{`{"name":"b"}`, 60, 86400},
		{`{"cache_seconds":0,"outage_grace_seconds":1,"name":"c"}`, 0, 1},
	} {
		r := c.patch(t, path, "*", step.patch)
		got := read[api.Instance](t, r, http.StatusOK)
		if got.CacheSeconds != step.cache || got.OutageGraceSeconds != step.grace || r.header.Get("ETag") == last {
			t.Errorf("%s: %d and %d, ETag %s after %s", step.patch, got.CacheSeconds, got.OutageGraceSeconds, r.header.Get("ETag"), last)
		}
		last = r.header.Get("ETag")
	}
	if shown := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); shown.Name != "c" || shown.OutageGraceSeconds != 1 {
		t.Errorf("%+v", shown)
	}
}

func TestInstanceNames(t *testing.T) {
	c := start(t)
	c.instance(t, "taken")
	for body, want := range map[string]struct {
		status           int
		code             api.ErrorCode
		target, sentence string
	}{
		`{"name":"taken"}`:                           {409, api.ErrorCodeAlreadyExists, "name", "Choose another name"},
		`{"name":""}`:                                {400, api.ErrorCodeMissingValue, "name", "missing or empty"},
		`{"name":" a"}`:                              {400, api.ErrorCodeInvalidValue, "name", "begin and end"},
		`{"name":"a\u0000b"}`:                        {400, api.ErrorCodeInvalidValue, "name", "letters, digits"},
		`{"name":"ünïcode"}`:                         {400, api.ErrorCodeInvalidValue, "name", "letters, digits"},
		`{"name":"line\nbreak"}`:                     {400, api.ErrorCodeInvalidValue, "name", "letters, digits"},
		`{"name":"` + strings.Repeat("a", 64) + `"}`: {400, api.ErrorCodeInvalidValue, "name", "longer than 63"},
	} {
		refusal(t, c.call(t, "POST", "/v1/instances", body), want.status, want.code, want.target, want.sentence)
	}
	// The same name in another account is no conflict.
	r := c.send(t, "POST", c.url+"/v1/instances", c.cloud.token(t, stranger, nil), `{"name":"taken"}`)
	read[api.Instance](t, r, http.StatusAccepted)
}

func TestPathsThatAreNotIDs(t *testing.T) {
	c := start(t)
	for _, id := range []string{"x", "..%2f..%2fopenapi.yaml", "%25zz", strings.Repeat("a", 4000), "00000000-0000-4000-8000-00000000000A", "%00"} {
		r := c.call(t, "GET", "/v1/instances/"+id, "")
		refusal(t, r, http.StatusNotFound, api.ErrorCodeNotFound, "", "")
	}
}
