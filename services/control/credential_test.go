package control_test

import (
	"net/http"
	"testing"

	"github.com/kmip-for-vmware/kmip/api"
)

// TestKMIPCredential makes, replaces and removes an instance's password; only
// its digest is kept, and another account can do nothing of it.
func TestKMIPCredential(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	put := func() api.KMIPCredential {
		t.Helper()
		return read[api.KMIPCredential](t, c.call(t, "PUT", path+"/kmip_credential", `{"user_name":"vcenter-1"}`), http.StatusOK)
	}
	one, two := put(), put()
	if one.UserName != "vcenter-1" || len(one.Password) != 32 || one.Password == two.Password {
		t.Errorf("%+v, then %+v", one, two)
	}
	if i := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); i.KmipUserName == nil || *i.KmipUserName != "vcenter-1" {
		t.Errorf("user name %v", i.KmipUserName)
	}
	for _, body := range []string{`{}`, `{"user_name":""}`, `{"user_name":"a b"}`, `{"user_name":"a","password":"b"}`} {
		if r := c.call(t, "PUT", path+"/kmip_credential", body); r.status != http.StatusBadRequest {
			t.Errorf("%s: status %d", body, r.status)
		}
	}
	refusal(t, c.as(t, stranger, "PUT", path+"/kmip_credential", `{"user_name":"x"}`), http.StatusNotFound, api.ErrorCodeNotFound, "", "no instance with this id")
	refusal(t, c.as(t, stranger, "DELETE", path+"/kmip_credential", ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "no instance with this id")
	for range 2 {
		if r := c.call(t, "DELETE", path+"/kmip_credential", ""); r.status != http.StatusNoContent {
			t.Errorf("status %d", r.status)
		}
	}
	if i := read[api.Instance](t, c.call(t, "GET", path, ""), http.StatusOK); i.KmipUserName != nil {
		t.Errorf("user name %s", *i.KmipUserName)
	}
}
