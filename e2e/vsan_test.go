package e2e

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// TestVSANBoot plays a power loss of a cluster of 64 hosts: one certificate,
// as many addresses, two keys each, all at once and over both nodes.
func TestVSANBoot(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux answers on all of 127.0.0.0/8")
	}
	i := newInstance(t, sharedCell(t))
	kek, host := i.create(t, nodes[0]), i.create(t, nodes[1])
	want, err := i.get(t, nodes[0], kek)
	if err != nil {
		t.Fatal(err)
	}
	const hosts = 64
	addresses := make([]netip.Addr, 0, hosts)
	for a := netip.MustParseAddr("127.0.1.1"); len(addresses) < hosts; a = a.Next() {
		addresses = append(addresses, a)
	}
	steps := 0
	vCenter := &client.VCenter{
		Server: client.Spread(i.config(t, nodes[0], i.certificate), i.config(t, nodes[1], i.certificate)),
		Report: func(client.Step) { steps++ },
	}
	got, err := vCenter.VSANBoot(t.Context(), addresses, kek, host)
	if err != nil {
		t.Fatal(err)
	}
	for n, keys := range got {
		if len(keys) != 2 || !keys[0].Key.Equal(want) || keys[1].Key.Equal(want) {
			t.Errorf("host %s got %d keys, or other bytes", addresses[n], len(keys))
		}
	}
	// A handshake, Discover Versions, Get and Get Attributes for each key.
	if want := hosts * 2 * 4; steps != want {
		t.Errorf("%d steps, want %d", steps, want)
	}
}
