package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// authenticationNotSuccessful is a result reason (KMIP 1.4, 9.1.3.2.29).
const authenticationNotSuccessful = 0x3

// TestPassword gives one of two tenants a password: its certificate alone gets
// no key any more, vCenter with the password does on both nodes, and the other
// tenant notices nothing. The password is kept nowhere.
func TestPassword(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	i, neighbour := newInstance(t, c), newInstance(t, c)
	id, other := i.create(t, nodes[0]), neighbour.create(t, nodes[0])
	var made api.KMIPCredential
	i.api(t, http.MethodPut, "/v1/instances/"+i.id+"/kmip_credential", m{"user_name": "vcenter-1"}).decode(t, &made)
	i.awaitInForce(t)
	for _, node := range nodes {
		_, err := i.get(t, node, id)
		wantReason(t, err, authenticationNotSuccessful, "Get without the password on "+node)
		if _, err := neighbour.get(t, node, other); err != nil {
			t.Errorf("the neighbour on %s: %v", node, err)
		}
		config := i.config(t, node, i.certificate)
		config.Credential = &client.Credential{UserName: made.UserName, Password: "wrong"}
		wantReason(t, getWith(t.Context(), config), authenticationNotSuccessful, "another password on "+node)
		config.Credential.Password = made.Password
		if err := getWith(t.Context(), config); err != nil {
			t.Errorf("with the password on %s: %v", node, err)
		}
	}
	found := false
	for place, content := range c.kept(t, i) {
		found = found || bytes.Contains(content, []byte(made.UserName)) // the search does search
		for n, form := range forms([]byte(made.Password)) {
			if bytes.Contains(content, form) {
				t.Errorf("%s holds the password in form %d", place, n)
			}
		}
	}
	if !found {
		t.Error("the user name is nowhere")
	}
	if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id+"/kmip_credential", nil); a.status != http.StatusNoContent {
		t.Fatalf("status %d, %s", a.status, a.body)
	}
	i.awaitInForce(t)
	for _, node := range nodes {
		if _, err := i.get(t, node, id); err != nil {
			t.Errorf("without a password again on %s: %v", node, err)
		}
	}
}

// getWith makes a key and reads it on a connection of its own.
func getWith(ctx context.Context, config client.Config) error {
	conn, err := discover(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	id, err := conn.Create(ctx, vSphere...)
	if err != nil {
		return err
	}
	key, err := conn.Get(ctx, id)
	if err == nil && key.Len() != 32 {
		err = fmt.Errorf("a key of %d bytes", key.Len())
	}
	return err
}
