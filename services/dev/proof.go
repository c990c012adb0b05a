package dev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// proof compares what the nodes gave with what lies where. Key bytes are
// compared in memory and never printed.
type proof struct {
	out    io.Writer
	nodes  [2]string // addresses
	tenant *tenantSetup
	dump   func(ctx context.Context, account, tenant string) ([]byte, error)
	logs   []string // files and folders

	failed []error
}

// owners says whose the two keys are, in the order of the proof.
var owners = [...]string{"virtual machine's", "host's"}

// check notes one thing that holds or does not.
func (p *proof) check(what string, err error) {
	if err != nil {
		p.failed = append(p.failed, fmt.Errorf("%s: %w", what, err))
		fmt.Fprintf(p.out, "  NO   %s\n", what)
		return
	}
	fmt.Fprintf(p.out, "  yes  %s\n", what)
}

// run makes all comparisons; its error names every one that failed.
func (p *proof) run(ctx context.Context, got *played) error {
	keys, list, err := p.tenant.service.list(ctx)
	if err != nil {
		return fmt.Errorf("listing the keys: %w", err)
	}
	named := map[string]cloudKey{}
	for _, key := range keys {
		named[key.Name] = key
	}
	found := map[string]cloudKey{}
	all := []client.Fetched{got.vm, got.host}
	for n, key := range all {
		name := engine.StandardKeyPrefix + string(key.ID)
		standard, ok := named[name]
		if !ok {
			return fmt.Errorf("the key manager does not list a standard key %s", name)
		}
		found[string(key.ID)] = standard
		p.where(owners[n], key, standard)
	}

	fmt.Fprint(p.out, "\nCompared\n")
	p.check(fmt.Sprintf("both nodes gave the same bytes, to vCenter and to %d hosts", len(got.vSAN)), sameBytes(got))
	p.check("the host's key was made on node 1 and read on node 2 in the next connection", p.acrossNodes(got))
	for n, key := range all {
		p.opens(ctx, owners[n], key, all[1-n], found[string(key.ID)])
	}
	dump, err := p.dump(ctx, p.tenant.account, p.tenant.instance)
	if err != nil {
		return fmt.Errorf("the database's content: %w", err)
	}
	for n, key := range all {
		p.nowhere(owners[n], key, dump, list)
	}
	return errors.Join(p.failed...)
}

// where prints the place of a wrapped KEK.
func (p *proof) where(whose string, key client.Fetched, standard cloudKey) {
	digest := sha256.Sum256(key.Key.Reveal())
	fmt.Fprintf(p.out, "\nThe wrapped KEK %s\n", key.ID)
	for _, line := range [][2]string{
		{"made for the", strings.TrimSuffix(whose, "'s")},
		{"is the standard key", standard.Name},
		{"with the id", standard.ID},
		{"in the instance", p.tenant.keyManager.GUID},
		{"wrapped by root key", p.tenant.rootKey},
		{"SHA-256 when unwrapped", fmt.Sprintf("%x…", digest[:4])},
	} {
		fmt.Fprintf(p.out, "  %-24s %s\n", line[0], line[1])
	}
}

// sameBytes compares each key from the conversation with what both nodes, and
// every host of the vSAN cluster, got afterwards.
func sameBytes(got *played) error {
	for n, again := range append(got.again[:], got.vSAN...) {
		if len(again) != 2 {
			return fmt.Errorf("reader %d got %d keys, not 2", n+1, len(again))
		}
		for m, want := range []client.Fetched{got.vm, got.host} {
			if again[m].ID != want.ID || !again[m].Key.Equal(want.Key) {
				return fmt.Errorf("key %s has other bytes for reader %d", want.ID, n+1)
			}
		}
	}
	if got.vm.Key.Equal(got.host.Key) {
		return errors.New("the two keys are the same")
	}
	return nil
}

func (p *proof) acrossNodes(got *played) error {
	if got.madeOn != p.nodes[0] || got.host.Server != p.nodes[1] || got.host.Connection != readsHostKey {
		return fmt.Errorf("it was made on %s and read on %s in connection %s", got.madeOn, got.host.Server, got.host.Connection)
	}
	return nil
}

// opens proves that a standard key is worth nothing without the tenant's root
// key and the object's own binding.
func (p *proof) opens(ctx context.Context, whose string, key, foreign client.Fetched, standard cloudKey) {
	envelope, payload, err := p.envelope(ctx, key, standard)
	p.check("the "+whose+" standard key holds an envelope for it, and not the key", err)
	if err != nil {
		return
	}
	spelled := spell(key.Key)
	defer spelled.wipe()
	if how := spelled.in(payload); how != "" {
		p.check("the "+whose+" envelope hides the key", fmt.Errorf("it holds the key as %s", how))
	}
	id := tenant.ID(p.tenant.instance)
	own := engine.Binding{Tenant: id, Object: key.ID}.AdditionalData()
	other := engine.Binding{Tenant: id, Object: foreign.ID}.AdditionalData()

	plain, err := p.tenant.service.unwrap(ctx, p.tenant.rootKey, envelope.Wrapped.Ciphertext, own)
	if err == nil && !plain.Equal(key.Key) {
		err = errors.New("what it opens is not what KMIP gave")
	}
	plain.Wipe()
	p.check("the tenant's root key opens it: exactly the bytes that KMIP gave", err)
	p.check("the root key does not open it without its additional data", p.stays(ctx, p.tenant.rootKey, envelope, nil))
	p.check("the root key does not open it as another object", p.stays(ctx, p.tenant.rootKey, envelope, other))
	p.check("another root key does not open it", p.stays(ctx, p.tenant.otherRootKey, envelope, own))
}

func (p *proof) envelope(ctx context.Context, key client.Fetched, standard cloudKey) (engine.Envelope, []byte, error) {
	whole, err := p.tenant.service.get(ctx, standard.ID)
	if err != nil {
		return engine.Envelope{}, nil, err
	}
	payload, err := whole.payload()
	if err != nil {
		return engine.Envelope{}, nil, err
	}
	envelope, err := engine.DecodeEnvelope(payload, key.ID)
	switch {
	case err != nil:
	case string(envelope.Tenant) != p.tenant.instance:
		err = fmt.Errorf("it names tenant %s", envelope.Tenant)
	case envelope.Wrapped.RootKeyID != p.tenant.rootKey:
		err = fmt.Errorf("it names root key %s", envelope.Wrapped.RootKeyID)
	}
	return envelope, payload, err
}

// stays wants the key manager to refuse to unwrap, for the ciphertext's sake
// and no other reason.
func (p *proof) stays(ctx context.Context, rootKey string, envelope engine.Envelope, additionalData []string) error {
	plain, err := p.tenant.service.unwrap(ctx, rootKey, envelope.Wrapped.Ciphertext, additionalData)
	plain.Wipe()
	var refused *statusError
	if errors.As(err, &refused) && refused.status == http.StatusUnprocessableEntity {
		return nil
	}
	if err == nil {
		err = errors.New("it opened")
	}
	return err
}

// nowhere searches everything that is kept outside of the nodes' memory.
func (p *proof) nowhere(whose string, key client.Fetched, dump, list []byte) {
	spelled := spell(key.Key)
	defer spelled.wipe()
	for _, text := range []struct {
		name    string
		content []byte
	}{{"database", dump}, {"key manager's list", list}} {
		var err error
		if how := spelled.in(text.content); how != "" {
			err = fmt.Errorf("it is there as %s", how)
		} else if !strings.Contains(string(text.content), string(key.ID)) {
			err = errors.New("what was searched does not even hold its unique identifier")
		}
		p.check("the "+whose+" key is not in the "+text.name, err)
	}
	var err error
	for _, log := range p.logs {
		found, walkErr := spelled.inFiles(log)
		if found != "" {
			walkErr = errors.New(found)
		}
		err = errors.Join(err, walkErr)
	}
	p.check("the "+whose+" key is not in the logs", err)
}
