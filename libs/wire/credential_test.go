package wire_test

import (
	"testing"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire"
)

func authentication(userName, password string) ttlv.Value {
	return st(kmip14.TagAuthentication, st(kmip14.TagCredential, v(kmip14.TagCredentialType, ttlv.EnumValue(1)),
		st(kmip14.TagCredentialValue, v(kmip14.TagUsername, userName), v(kmip14.TagPassword, password))))
}

// TestCredential is vCenter's conversation with a tenant that wants a user name
// and password: it sends them with some requests, and each connection is to
// prove them anew, until they are changed.
func TestCredential(t *testing.T) {
	b := newBench()
	id := b.create(t)
	mine, theirs := tenant.NewCredential("vcenter", []byte("one")), tenant.NewCredential("vcenter", []byte("two"))
	b.tenant.Credential = &mine
	get, attributes := item(kmip14.OperationGet, uid(id)), item(kmip14.OperationGetAttributes, uid(id), v(kmip14.TagAttributeName, "State"))
	refused := kmip14.ResultReasonAuthenticationNotSuccessful
	ask := func(what string, want kmip14.ResultReason, it ttlv.Value, more ...ttlv.Value) {
		t.Helper()
		wantReason(t, what, b.one(t, message(header(1, 1, more...), it)), want)
	}
	ask("Get without", refused, get)
	ask("Create without", refused, item(kmip14.OperationCreate, vSphere()...))
	ask("Destroy without", refused, item(kmip14.OperationDestroy, uid(id)))
	ask("Get Attributes without", 0, attributes)
	ask("Discover Versions without", 0, item(kmip14.OperationDiscoverVersions))
	for _, wrong := range [][2]string{{"vcenter", "two"}, {"vcenter", ""}, {"vcente", "rone"}, {"", "one"}} {
		ask("Get with another one", refused, get, authentication(wrong[0], wrong[1]))
		ask("Get Attributes with another one", refused, attributes, authentication(wrong[0], wrong[1]))
	}
	ask("Get with it", 0, get, authentication("vcenter", "one"))
	ask("Get after it", 0, get)
	b.session = wire.Session{}
	ask("Get on another connection", refused, get)
	ask("Get with it there", 0, get, authentication("vcenter", "one"))

	// It proves nothing to another tenant, nor once it was changed.
	before := b.tenant
	b.tenant = &tenant.Tenant{ID: enginetest.NewTenantID(), Credential: &theirs}
	ask("another tenant's Create", refused, item(kmip14.OperationCreate, vSphere()...))
	b.tenant = before
	b.tenant.Credential = &theirs
	ask("Get with the former", refused, get)
	b.tenant.Credential = nil
	ask("Get when none is wanted", 0, get, authentication("any", "thing"))
}
