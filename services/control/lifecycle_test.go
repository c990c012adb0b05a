package control_test

import (
	"crypto/elliptic"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
)

const mergePatch = "application/merge-patch+json"

// patch sends a merge patch of the first account's user, for a state.
func (c *cell) patch(t *testing.T, path, tag, body string) response {
	t.Helper()
	return c.send(t, "PATCH", c.url+path, c.cloud.token(t, account, nil), body, "Content-Type", mergePatch, "If-Match", tag)
}

func (c *cell) tag(t *testing.T, path string) string {
	t.Helper()
	return c.call(t, "GET", path, "").header.Get("ETag")
}

// A change happens to the state that its caller has seen, or not at all.
func TestChangesOfAState(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	c.instance(t, "taken")
	first := c.tag(t, path)
	r := c.patch(t, path, first, `{"name":"b"}`)
	if got := read[api.Instance](t, r, http.StatusOK); got.Name != "b" || r.header.Get("ETag") == first || r.header.Get("ETag") != c.tag(t, path) {
		t.Errorf("%s %s", r.header.Get("ETag"), r.body)
	}
	second := r.header.Get("ETag")
	refusal(t, c.patch(t, path, first, `{"name":"c"}`), http.StatusPreconditionFailed, api.ErrorCodePreconditionFailed, "If-Match", "Get it again")
	refusal(t, c.send(t, "DELETE", c.url+path, c.cloud.token(t, account, nil), "", "If-Match", first), http.StatusPreconditionFailed, api.ErrorCodePreconditionFailed, "If-Match", "Get it again")
	refusal(t, c.patch(t, path, second, `{"name":"taken"}`), http.StatusConflict, api.ErrorCodeAlreadyExists, "name", "Choose another name")
	refusal(t, c.patch(t, path, second, `{"name":" b"}`), http.StatusBadRequest, api.ErrorCodeInvalidValue, "name", "begin and end")
	// An empty patch changes no name, one of several tags is enough, and "*" is any state.
	if got := read[api.Instance](t, c.patch(t, path, first+`, `+second, `{}`), http.StatusOK); got.Name != "b" {
		t.Errorf("an empty patch: %+v", got)
	}
	if got := read[api.Instance](t, c.patch(t, path, "*", `{"name":"d"}`), http.StatusOK); got.Name != "d" {
		t.Errorf("for any state: %+v", got)
	}
	// A client certificate is a change, too: of what is in force.
	before := c.tag(t, path)
	text := certificate(t, ecKey(t, elliptic.P256()), time.Hour)
	read[api.ClientCertificate](t, c.call(t, "POST", path+"/client_certificates", object(map[string]any{"name": "vc", "certificate": text})), http.StatusCreated)
	if c.tag(t, path) == before {
		t.Error("a client certificate changes no tag")
	}
	r = c.send(t, "DELETE", c.url+path, c.cloud.token(t, account, nil), "", "If-Match", c.tag(t, path))
	if read[api.Instance](t, r, http.StatusAccepted).Status != api.InstanceStatusRemoving || r.header.Get("ETag") != c.tag(t, path) {
		t.Errorf("%s %s", r.header.Get("ETag"), r.body)
	}
}

func TestDeleteAndRestore(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	read[api.KeyManager](t, c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)), http.StatusOK)
	before := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK)

	removed := read[api.Instance](t, c.call(t, "DELETE", path, ""), http.StatusAccepted)
	if removed.Status != api.InstanceStatusRemoving || removed.RestorableUntil == nil || removed.RestorableUntil.Sub(removed.UpdatedAt) != 30*24*time.Hour {
		t.Errorf("removed: %+v", removed)
	}
	if again := read[api.Instance](t, c.call(t, "DELETE", path, ""), http.StatusAccepted); !again.RestorableUntil.Equal(*removed.RestorableUntil) {
		t.Errorf("removed again: %+v", again)
	}
	if got := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); got.Status != api.InstanceStatusRemoving {
		t.Errorf("got %+v", got)
	}
	list := func(query string) []api.Instance {
		t.Helper()
		return read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances"+query, ""), http.StatusOK).Instances
	}
	if all := list(""); len(all) != 0 {
		t.Errorf("the list shows %+v", all)
	}
	if all := list("?status=removing"); len(all) != 1 || all[0].ID != before.ID {
		t.Errorf("the list of removed ones shows %+v", all)
	}
	for method, r := range map[string]response{
		"key manager": c.call(t, "PUT", path+"/key_manager", keyManagerBody(nil)),
		"rename":      c.patch(t, path, "*", `{"name":"b"}`),
		"certificate": c.call(t, "POST", path+"/client_certificates", object(map[string]any{
			"name": "vc", "certificate": certificate(t, ecKey(t, elliptic.P256()), time.Hour),
		})),
	} {
		t.Run(method, func(t *testing.T) {
			refusal(t, r, http.StatusConflict, api.ErrorCodeInvalidState, "", "Restore it first")
		})
	}

	namesake := c.instance(t, "a")
	refusal(t, c.call(t, "POST", path+"/restore", ""), http.StatusConflict, api.ErrorCodeAlreadyExists, "", "Rename or delete that one")
	read[api.Instance](t, c.patch(t, namesake, "*", `{"name":"c"}`), http.StatusOK)
	restored := read[api.Instance](t, c.call(t, "POST", path+"/restore", ""), http.StatusAccepted)
	if restored.Status != api.InstanceStatusInstalled || restored.RestorableUntil != nil || restored.KeyManager == nil || *restored.KeyManager != *before.KeyManager {
		t.Errorf("restored: %+v", restored)
	}
	if all := list(""); len(all) != 2 {
		t.Errorf("the list shows %+v", all)
	}
}

// Following `next` leads through all of an account's instances, and no one
// else's.
func TestPages(t *testing.T) {
	c := start(t)
	var want []string
	for i := range 5 {
		want = append(want, fmt.Sprintf("i%d", i))
		c.instance(t, want[i])
		read[api.Instance](t, c.as(t, stranger, "POST", "/v1/instances", "{}"), http.StatusAccepted)
	}
	var got []string
	next := c.url + "/v1/instances?limit=2&status=inactive"
	for next != "" {
		page := read[api.InstanceCollection](t, c.send(t, "GET", next, c.cloud.token(t, account, nil), ""), http.StatusOK)
		if page.Limit != 2 || page.TotalCount != 5 || page.First.Href != c.url+"/v1/instances?limit=2&status=inactive" {
			t.Errorf("%+v", page)
		}
		for _, i := range page.Instances {
			got = append(got, i.Name)
		}
		next = ""
		if page.Next != nil {
			u, err := url.Parse(page.Next.Href)
			if err != nil || u.Query().Get("start") != page.Next.Start || u.Query().Get("status") != "inactive" {
				t.Errorf("next %+v, %v", page.Next, err)
			}
			next = page.Next.Href
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pages %v, want %v", got, want)
	}
	one := read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances?name=i3", ""), http.StatusOK)
	if len(one.Instances) != 1 || one.Instances[0].Name != "i3" || one.TotalCount != 1 || one.Next != nil || one.Limit != 50 {
		t.Errorf("by name: %+v", one)
	}
}

// A creation with a key happens once, however often it is asked for, and is
// answered alike.
func TestIdempotencyKey(t *testing.T) {
	c := start(t)
	post := func(account, path, key, body string) response {
		t.Helper()
		return c.send(t, "POST", c.url+path, c.cloud.token(t, account, nil), body, "Idempotency-Key", key)
	}
	same := func(a, b response) bool {
		return a.status == b.status && a.body == b.body && a.header.Get("Location") == b.header.Get("Location") &&
			a.header.Get("ETag") == b.header.Get("ETag") && a.header.Get("X-Request-ID") != b.header.Get("X-Request-ID")
	}
	first := post(account, "/v1/instances", "one", `{}`)
	made := read[api.Instance](t, first, http.StatusAccepted)
	path := "/v1/instances/" + made.ID
	if first.header.Get("Location") != path || first.header.Get("ETag") != c.tag(t, path) {
		t.Errorf("%v", first.header)
	}
	if again := post(account, "/v1/instances", "one", `{}`); !same(again, first) {
		t.Errorf("again %v %s\nfirst %v %s", again.header, again.body, first.header, first.body)
	}
	refusal(t, post(account, "/v1/instances", "one", `{"name":"b"}`), http.StatusConflict, api.ErrorCodeConflict, "", "was used for another request")
	if theirs := post(stranger, "/v1/instances", "one", `{}`); same(theirs, first) {
		t.Errorf("the stranger got %s", theirs.body)
	}
	// A refusal keeps nothing: the key may be used again.
	refusal(t, post(account, "/v1/instances", "two", `{"name":"`+made.Name+`"}`), http.StatusConflict, api.ErrorCodeAlreadyExists, "name", "Choose another")
	read[api.Instance](t, post(account, "/v1/instances", "two", `{"name":"other"}`), http.StatusAccepted)

	text := object(map[string]any{"name": "vc", "certificate": certificate(t, ecKey(t, elliptic.P256()), time.Hour)})
	added := post(account, path+"/client_certificates", "three", text)
	read[api.ClientCertificate](t, added, http.StatusCreated)
	if again := post(account, path+"/client_certificates", "three", text); !same(again, added) {
		t.Errorf("again %s\nfirst %s", again.body, added.body)
	}
	refusal(t, post(stranger, path+"/client_certificates", "three", text), http.StatusNotFound, api.ErrorCodeNotFound, "", "no instance")

	// At the same time, too.
	const callers = 8
	var group sync.WaitGroup
	locations := make([]string, callers)
	for i := range callers {
		group.Go(func() { locations[i] = post(account, "/v1/instances", "four", `{}`).header.Get("Location") })
	}
	group.Wait()
	if locations[0] == "" || strings.Join(locations, "") != strings.Repeat(locations[0], callers) {
		t.Errorf("locations %v", locations)
	}
	if list := read[api.InstanceCollection](t, c.call(t, "GET", "/v1/instances", ""), http.StatusOK); list.TotalCount != 3 {
		t.Errorf("%d instances", list.TotalCount)
	}
}

func TestPlanning(t *testing.T) {
	c := start(t)
	regions := read[api.RegionCollection](t, c.call(t, "GET", "/v1/regions", ""), http.StatusOK).Regions
	if len(regions) != 1 || regions[0].ID != "us-south" || fmt.Sprint(regions[0].Hostnames, regions[0].KeyManagers) != "[kmip-1.test kmip-2.test] [key_protect hpcs]" {
		t.Errorf("regions %+v", regions)
	}
	for query, want := range map[string]api.KeyEstimate{
		"":                                      {},
		"?encrypted_vms=0&vsan_clusters=0":      {},
		"?encrypted_vms=100&vsphere_clusters=2": {RootKeys: 1, StandardKeys: 102},
		"?vsan_clusters=3":                      {RootKeys: 1, StandardKeys: 6},
		"?encrypted_vms=1000000&vsphere_clusters=1000000&vsan_clusters=1000000": {RootKeys: 2, StandardKeys: 4000000},
	} {
		if got := read[api.KeyEstimate](t, c.call(t, "GET", "/v1/key_estimate"+query, ""), http.StatusOK); got != want {
			t.Errorf("%s: %+v, want %+v", query, got, want)
		}
	}
	for _, path := range []string{"/v1/regions", "/v1/key_estimate"} {
		refusal(t, c.send(t, "GET", c.url+path, "", ""), http.StatusUnauthorized, api.ErrorCodeUnauthorized, "", "No access token")
	}
}
