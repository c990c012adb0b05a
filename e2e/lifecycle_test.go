package e2e

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// shown is what the tests here read of an instance.
type shown struct {
	ID              string     `json:"id"`
	Name            string     `json:"name"`
	Status          string     `json:"status"`
	RestorableUntil *time.Time `json:"restorable_until"`
}

// TestDeletedInstanceIsRestored deletes an instance at the shared endpoints and
// one at an endpoint of its own, and restores them: the same clients get the
// same keys at the same place, and another tenant notices nothing.
func TestDeletedInstanceIsRestored(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	bystander := newInstance(t, c)
	theirs := bystander.create(t, nodes[0])
	for name, newTenant := range map[string]func(*testing.T, *cell) *instance{"shared": newInstance, "own": newDedicated} {
		i := newTenant(t, c)
		path := "/v1/instances/" + i.id
		id := i.create(t, nodes[0])
		want, err := i.get(t, nodes[1], id)
		if err != nil {
			t.Fatal(err)
		}
		var before, removed, restored shown
		i.api(t, http.MethodGet, path, nil).decode(t, &before)
		a := i.api(t, http.MethodDelete, path, nil, "If-Match", i.api(t, http.MethodGet, path, nil).header.Get("ETag"))
		a.decode(t, &removed)
		if a.status != http.StatusAccepted || removed.Status != "removing" || removed.RestorableUntil == nil {
			t.Fatalf("%s: deleting: status %d, %s", name, a.status, a.body)
		}
		for _, node := range nodes {
			eventuallyRefused(t, i.config(t, node, i.certificate))
		}

		// Its name is free meanwhile; taken by another it keeps this one away.
		var namesake shown
		i.api(t, http.MethodPost, "/v1/instances", map[string]any{"name": before.Name}).decode(t, &namesake)
		if a := i.api(t, http.MethodPost, path+"/restore", nil); a.status != http.StatusConflict {
			t.Errorf("%s: restoring beside a namesake: status %d, %s", name, a.status, a.body)
		}
		if a := i.api(t, http.MethodPatch, "/v1/instances/"+namesake.ID, map[string]any{"name": "e2e-" + uuid.NewString()[:8]}, "If-Match", "*"); a.status != http.StatusOK {
			t.Fatalf("%s: renaming: status %d, %s", name, a.status, a.body)
		}
		a = i.api(t, http.MethodPost, path+"/restore", nil)
		a.decode(t, &restored)
		if a.status != http.StatusAccepted || restored != before {
			t.Fatalf("%s: restoring: status %d, %s, want %+v", name, a.status, a.body, before)
		}
		i.awaitAdmission(t, i.certificate)
		for _, node := range nodes {
			if got, err := i.get(t, node, id); err != nil || !got.Equal(want) {
				t.Errorf("%s: the key on %s after the instance was restored: %v", name, node, err)
			}
		}
	}
	if _, err := bystander.get(t, nodes[1], theirs); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
	var list struct {
		Instances []shown `json:"instances"`
	}
	bystander.api(t, http.MethodGet, "/v1/instances?status=installed&limit=100", nil).decode(t, &list)
	for _, i := range list.Instances {
		if i.Status != "installed" {
			t.Errorf("the list of installed instances shows %+v", i)
		}
	}
}

// TestEndpointsProveThemselves compares what the API says of an instance's
// servers with what the nodes show.
func TestEndpointsProveThemselves(t *testing.T) {
	t.Parallel()
	c := sharedCell(t)
	for name, i := range map[string]*instance{"shared": newInstance(t, c), "own": newDedicated(t, c)} {
		var list struct {
			Endpoints []struct {
				Chain  []string `json:"certificate_chain"`
				SHA256 string   `json:"sha256_fingerprint"`
				SHA1   string   `json:"sha1_fingerprint"`
			} `json:"endpoints"`
		}
		i.api(t, http.MethodGet, "/v1/instances/"+i.id+"/endpoints", nil).decode(t, &list)
		for _, node := range nodes {
			chain, err := client.FetchCertificates(t.Context(), i.config(t, node, nil))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list.Endpoints {
				if e.SHA256 != fmt.Sprintf("%x", sha256.Sum256(chain[0].Raw)) || e.SHA1 != fmt.Sprintf("%x", sha1.Sum(chain[0].Raw)) {
					t.Errorf("%s: %s shows another certificate than %s", name, node, e.SHA256)
				}
				if len(chain) != len(e.Chain) {
					t.Fatalf("%s: %s shows a chain of %d, want %d", name, node, len(chain), len(e.Chain))
				}
				for n, certificate := range chain {
					if text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})); text != e.Chain[n] {
						t.Errorf("%s: certificate %d of %s's chain differs", name, n, node)
					}
				}
			}
		}
	}
}

// TestCreationsRepeatedAcrossAKill kills the control plane while it creates
// instances, and repeats every creation with its idempotency key until it is
// answered: each has happened once, and is answered alike from then on.
func TestCreationsRepeatedAcrossAKill(t *testing.T) {
	t.Parallel()
	c := ownCell(t)
	i := first(t, c)
	count := func() (n struct {
		Total int `json:"total_count"`
	},
	) {
		i.api(t, http.MethodGet, "/v1/instances?limit=1", nil).decode(t, &n)
		return n
	}
	before := count().Total
	create := func(ctx context.Context, key string) (location string, err error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, i.env["API_URL"]+"/v1/instances", strings.NewReader("{}"))
		if err != nil {
			return "", err
		}
		request.Header = http.Header{"Authorization": {"Bearer " + i.bearer}, "Content-Type": {"application/json"}, "Idempotency-Key": {key}}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusAccepted {
			return "", fmt.Errorf("status %d", response.StatusCode)
		}
		return response.Header.Get("Location"), nil
	}

	const creations = 40
	keys, answered := make([]string, creations), make([]string, creations)
	halfway := make(chan struct{}, creations)
	var working sync.WaitGroup
	for n := range keys {
		keys[n] = uuid.NewString()
		working.Go(func() {
			answered[n], _ = create(t.Context(), keys[n]) // many are cut off
			halfway <- struct{}{}
		})
	}
	for range creations / 4 {
		<-halfway
	}
	if err := syscall.Kill(number(t, c.env(t)["CONTROL_PID"]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	working.Wait()
	cut := 0
	for n, key := range keys {
		var again string
		eventually(t, func(ctx context.Context) (err error) {
			again, err = create(ctx, key)
			return err
		})
		if answered[n] == "" {
			cut++
		} else if again != answered[n] {
			t.Errorf("a creation was answered with %s, repeated with %s", answered[n], again)
		}
		answered[n] = again
	}
	t.Logf("%d of %d creations were cut off", cut, creations)
	slices.Sort(answered)
	if distinct := slices.Compact(answered); len(distinct) != creations || count().Total != before+creations {
		t.Errorf("%d creations made %d instances, %d are named in answers", creations, count().Total-before, len(distinct))
	}
}
