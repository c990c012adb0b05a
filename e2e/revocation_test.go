package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// TestStandardKeyDeleted revokes one key by deleting its standard key, as the
// customer's manual has it: that key is gone for both nodes, others are not.
func TestStandardKeyDeleted(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	revoked, kept := i.create(t, nodes[0]), i.create(t, nodes[0])
	for _, node := range nodes {
		if _, err := i.get(t, node, revoked); err != nil {
			t.Fatalf("before: %v", err)
		}
	}
	standard := i.customer.find(t, engine.StandardKeyPrefix+string(revoked))
	if len(standard) != 1 || !standard[0].Extractable {
		t.Fatalf("standard keys of %s: %+v, want one", revoked, standard)
	}
	i.customer.delete(t, standard[0].ID)
	for _, node := range nodes {
		_, err := i.get(t, node, revoked)
		wantReason(t, err, itemNotFound, "Get of the revoked key on "+node)
		if _, err := i.get(t, node, kept); err != nil {
			t.Errorf("the other key on %s: %v", node, err)
		}
	}
}

// TestRootKeyDeleted revokes everything of an instance; another instance of
// the same account, under another root key, notices nothing.
func TestRootKeyDeleted(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	i, neighbour := newInstance(t, c), newInstance(t, c)
	id, other := i.create(t, nodes[0]), neighbour.create(t, nodes[1])
	i.customer.delete(t, i.rootKey)
	for _, node := range nodes {
		_, err := i.get(t, node, id)
		wantReason(t, err, permissionDenied, "Get on "+node)
		_, err = i.dial(t, node).Create(t.Context(), vSphere...)
		wantReason(t, err, permissionDenied, "Create on "+node)
		if _, err := neighbour.get(t, node, other); err != nil {
			t.Errorf("the neighbour on %s: %v", node, err)
		}
	}
}

// TestRootKeyDisabled switches an instance off and on again.
func TestRootKeyDisabled(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	id := i.create(t, nodes[0])
	if a := i.customer.call(t, http.MethodPost, "/keys/"+i.rootKey+"/actions/disable", nil); a.status != http.StatusNoContent {
		t.Fatalf("disabling the root key: status %d, %s", a.status, a.body)
	}
	_, err := i.get(t, nodes[1], id)
	wantReason(t, err, permissionDenied, "Get under a disabled root key")
}

// TestForeignObjectOverTheWire lets two tenants ask for each other's keys: the
// answers must not differ from those for an identifier that never existed.
func TestForeignObjectOverTheWire(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	one, neighbour, two := newInstance(t, c), newInstance(t, c), newDedicated(t, c)
	for _, pair := range [][2]*instance{{one, neighbour}, {one, two}, {two, one}} {
		owner, stranger := pair[0], pair[1]
		id := owner.create(t, nodes[0])
		conn := stranger.dial(t, nodes[1])
		name := kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")}
		do := func(operation kmip14.Operation, more ...kmip.Field) func(kmip.ObjectID) error {
			return func(id kmip.ObjectID) error {
				about := kmip.Field{Tag: uint32(kmip14.TagUniqueIdentifier), Value: kmip.Text(string(id))}
				results, err := conn.Do(t.Context(), client.Item{Operation: client.Operation(operation), Payload: append([]kmip.Field{about}, more...)})
				if err != nil {
					return err
				}
				return results[0].Err
			}
		}
		named := kmip.Field{Tag: uint32(kmip14.TagAttributeName), Value: kmip.Text(name.Name)}
		set := kmip.Field{Tag: uint32(kmip14.TagAttribute), Value: kmip.Struct(named, kmip.Field{Tag: uint32(kmip14.TagAttributeValue), Value: name.Value})}
		for operation, ask := range map[string]func(kmip.ObjectID) error{
			"Get":            func(id kmip.ObjectID) error { _, err := conn.Get(t.Context(), id); return err },
			"Get Attributes": func(id kmip.ObjectID) error { _, err := conn.GetAttributes(t.Context(), id, "State"); return err },
			"Add Attribute":  func(id kmip.ObjectID) error { return conn.AddAttributes(t.Context(), id, name) },
			"Activate":       func(id kmip.ObjectID) error { return conn.Activate(t.Context(), id) },
			"Revoke":         func(id kmip.ObjectID) error { return conn.Revoke(t.Context(), id, 1, "", time.Time{}) },
			"Destroy":        func(id kmip.ObjectID) error { return conn.Destroy(t.Context(), id) },

			"Get Attribute List": do(kmip14.OperationGetAttributeList),
			"Modify Attribute":   do(kmip14.OperationModifyAttribute, set),
			"Delete Attribute":   do(kmip14.OperationDeleteAttribute, named),
			"Check":              do(kmip14.OperationCheck),
			"Re-key":             do(kmip14.OperationReKey),
		} {
			foreign, unknown := ask(id), ask(kmip.ObjectID(uuid.NewString()))
			wantReason(t, foreign, itemNotFound, operation+" of a foreign key")
			if foreign == nil || unknown == nil || foreign.Error() != unknown.Error() {
				t.Errorf("%s: a foreign key is answered %v, an unknown one %v", operation, foreign, unknown)
			}
		}
		if found, err := conn.Locate(t.Context(), 0); err != nil || slices.Contains(found, id) {
			t.Errorf("Locate by the stranger: %v, %v", found, err)
		}
		if found, err := owner.dial(t, nodes[1]).Locate(t.Context(), 0); err != nil || !slices.Contains(found, id) {
			t.Errorf("Locate by the owner: %v, %v", found, err)
		}
		if _, err := owner.get(t, nodes[0], id); err != nil {
			t.Errorf("the owner afterwards: %v", err)
		}
	}
}

// TestRemovedCertificate removes one of two certificates: open connections end
// at once, the other certificate works on.
func TestRemovedCertificate(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	second, secondID := i.addCertificate(t)
	i.awaitAdmission(t, second)
	open, err := discover(t.Context(), i.config(t, nodes[0], second))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id+"/client_certificates/"+secondID, nil); a.status != http.StatusNoContent {
		t.Fatalf("removing the certificate: status %d, %s", a.status, a.body)
	}
	for _, node := range nodes {
		eventuallyRefused(t, i.config(t, node, second))
	}
	if _, err := open.DiscoverVersions(t.Context()); err == nil {
		t.Error("the open connection of a removed certificate still answers")
	}
	if _, err := i.get(t, nodes[0], i.create(t, nodes[0])); err != nil {
		t.Errorf("the remaining certificate: %v", err)
	}
}

// TestDeletedInstance ends its connections; its keys stay in the key manager.
func TestDeletedInstance(t *testing.T) {
	t.Parallel()
	i := newInstance(t, sharedCell(t))
	id := i.create(t, nodes[0])
	if a := i.api(t, http.MethodDelete, "/v1/instances/"+i.id, nil); a.status != http.StatusAccepted {
		t.Fatalf("deleting the instance: status %d, %s", a.status, a.body)
	}
	for _, node := range nodes {
		eventuallyRefused(t, i.config(t, node, i.certificate))
	}
	if standard := i.customer.find(t, engine.StandardKeyPrefix+string(id)); len(standard) != 1 || standard[0].State != 1 {
		t.Errorf("the standard key after the instance was deleted: %+v, want one that is active", standard)
	}
}
