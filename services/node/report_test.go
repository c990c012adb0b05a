package node

import (
	"context"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine/enginetest"
	"github.com/kmip-for-vmware/kmip/libs/pg"
	"github.com/kmip-for-vmware/kmip/libs/pgtest"
)

// TestReports follows one node from its first configuration to its end: what
// it has in force and whom it refused reaches the control plane, also when the
// database takes a report only at the second time.
func TestReports(t *testing.T) {
	database := pgtest.Database(t)
	instances := pg.NewInstances(openAs(t, database, "kmip_control"))
	pool := openAs(t, database, "kmip_node")
	c := serveCell(t, ports{source: pg.NewSource(pool), objects: enginetest.NewObjects()})
	instance, err := instances.Create(t.Context(), pg.Instance{
		ID: "11111111-2222-4333-8444-555555555555", Account: "0123456789abcdef0123456789abcdef", Name: "i", Region: "us-south", Status: pg.Inactive, CreatedBy: "IBMid-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	c.awaitRevision(t, instance.Revision)
	r := &reporter{reports: pg.NewReports(pool, "node-1"), server: c.server, uses: c.uses}
	r.inForce(t.Context())
	nodes, err := instances.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0] != (pg.Node{Name: "node-1", Revision: instance.Revision, Heard: true}) {
		t.Errorf("nodes %+v, %v", nodes, err)
	}

	c.refusals.add(map[pg.Refused]pg.Seen{{Addressed: instance.ID, Cause: noTLS, Source: loopback}: {Port: advertised, Times: 3}})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	r.refusals(over)
	if list, err := instances.ListRefusals(t.Context(), instance.Account, instance.ID); err != nil || len(list) != 0 {
		t.Errorf("after a report that failed: %+v, %v", list, err)
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.run(ctx) }()
	for deadline := time.After(10 * time.Second); ; {
		list, err := instances.ListRefusals(t.Context(), instance.Account, instance.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].Times == 3 && list[0].Cause == noTLS && list[0].Node == "node-1" {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("refusals %+v", list)
		}
	}
	stop()
	<-ended
	if nodes, err := instances.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Errorf("nodes after the end: %+v, %v", nodes, err)
	}
}
