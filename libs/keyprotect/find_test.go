package keyprotect_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// listed is a key as a list shows it.
type listed struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	State   int       `json:"state"`
	Created time.Time `json:"creationDate"`
	Ring    string    `json:"keyRingID"`
}

// lists plays the list of keys as Key Protect's public pages describe it, for
// several instances.
type lists struct {
	*stand
	mu        sync.Mutex
	instances map[string][]listed // by GUID
	filtered  int                 // requests with a filter
	pages     int                 // and without
	refuse    func(w http.ResponseWriter, r *http.Request) bool
}

var dates = regexp.MustCompile(`^creationDate=(gte|lte):"([^"]+)"$`)

func newLists(t *testing.T) *lists {
	t.Helper()
	l := &lists{instances: make(map[string][]listed)}
	l.stand = newStand(t, func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		q := r.URL.Query()
		if q.Has("filter") {
			l.filtered++
		} else {
			l.pages++
		}
		if l.refuse != nil && l.refuse(w, r) {
			return
		}
		limit, err := strconv.Atoi(q.Get("limit"))
		offset, offsetErr := strconv.Atoi(q.Get("offset"))
		if err != nil || offsetErr != nil || limit < 1 || limit > 5000 || offset < 0 || q.Get("sort") != "creationDate,id" || q.Get("state") != "0,1,2,3,5" {
			t.Errorf("list asked for with %v", q)
		}
		keys := slices.DeleteFunc(slices.Clone(l.instances[r.Header.Get("Bluemix-Instance")]), func(k listed) bool {
			if ring := r.Header.Get("X-Kms-Key-Ring"); ring != "" && ring != k.Ring {
				return true
			}
			for _, f := range strings.Fields(q.Get("filter")) {
				m := dates.FindStringSubmatch(f)
				if m == nil {
					t.Errorf("filter %q", f)
					return true
				}
				limit, err := time.Parse(time.RFC3339, m[2])
				if err != nil {
					t.Error(err)
				}
				if m[1] == "gte" && k.Created.Before(limit) || m[1] == "lte" && k.Created.After(limit) {
					return true
				}
			}
			return false
		})
		slices.SortFunc(keys, func(a, b listed) int {
			return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
		})
		keys = keys[min(offset, len(keys)):]
		_ = json.NewEncoder(w).Encode(map[string]any{"resources": keys[:min(limit, len(keys))]})
	})
	return l
}

// asked returns how many lists with and without a filter were asked for since
// the last call.
func (l *lists) asked() (filtered, pages int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	filtered, pages = l.filtered, l.pages
	l.filtered, l.pages = 0, 0
	return filtered, pages
}

func (l *lists) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

const (
	firstInstance  = "6f1c0b5e-59b5-4f5e-9d4c-1f1c4d1f7a01"
	secondInstance = "7a2d1c6f-59b5-4f5e-9d4c-1f1c4d1f7a02"
)

// client returns one of an instance, with the time now.
func (l *lists) client(t *testing.T, instance string, now func() time.Time) *keyprotect.Client {
	t.Helper()
	c, err := keyprotect.New(keyprotect.Config{
		BaseURL: l.URL, InstanceCRN: strings.Replace(instanceCRN, firstInstance, instance, 1), KeyRing: "vmware", RootKeyID: rootKey,
		Tokens: &tokens{}, HTTP: l.Client(), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.WithoutPauses()
}

// madeAt is a unique identifier of version 7.
func madeAt(at time.Time) kmip.ObjectID {
	id := uuid.New()
	random := [2]byte(id[:2])
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16)
	copy(id[6:8], random[:])
	id[6] = id[6]&0x0f | 0x70
	return kmip.ObjectID(id.String())
}

func standard(id kmip.ObjectID, created time.Time) listed {
	return listed{ID: uuid.NewString(), Name: "vmware_kmip_" + string(id), State: 1, Created: created.UTC().Truncate(time.Second), Ring: "vmware"}
}

func finds(t *testing.T, c *keyprotect.Client, id kmip.ObjectID, want string) {
	t.Helper()
	ref, err := c.Find(t.Context(), id)
	if want == "" {
		if !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Find(%s): %q, %v, want ErrNotFound", id, ref, err)
		}
		return
	}
	if err != nil || string(ref) != want {
		t.Errorf("Find(%s): %q, %v, want %s", id, ref, err, want)
	}
}

// manyKeys is more than two pages hold.
const manyKeys = 12_000

func TestFindAmongManyKeys(t *testing.T) {
	l, now := newLists(t), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	begin := now.Add(-manyKeys * time.Minute)
	var keys []listed
	var ids []kmip.ObjectID
	for n := range manyKeys {
		at := begin.Add(time.Duration(n) * time.Minute)
		ids = append(ids, madeAt(at))
		keys = append(keys, standard(ids[n], at.Add(time.Second)))
	}
	imported, late := kmip.ObjectID(uuid.NewString()), madeAt(begin)
	keys[3000].Name = "vmware_kmip_" + string(imported) // an identifier that tells no time
	keys[9000].Name = "vmware_kmip_" + string(late)     // one that tells another time
	keys[11_000].Ring = "archive"
	keys[7000].Name = "VMWARE_KMIP_" + string(ids[7000]) // another name
	l.instances[firstInstance] = keys
	c := l.client(t, firstInstance, clock)

	for _, n := range []int{0, 1, 4999, 5000, 5001, 9998, 9999, 10_000, manyKeys - 1} {
		finds(t, c, ids[n], keys[n].ID)
	}
	if filtered, pages := l.asked(); filtered != 9 || pages != 0 {
		t.Errorf("%d lists by time and %d pages of all keys for nine keys of known time", filtered, pages)
	}

	finds(t, c, imported, keys[3000].ID)
	if filtered, pages := l.asked(); filtered != 0 || pages != 3 {
		t.Errorf("%d lists by time and %d pages for a key without a time", filtered, pages)
	}
	finds(t, c, late, keys[9000].ID)
	finds(t, c, ids[11_000], keys[11_000].ID)
	finds(t, c, ids[7000], "")
	finds(t, c, madeAt(begin.Add(time.Hour)), "")
	finds(t, c, kmip.ObjectID(uuid.NewString()), "")
	finds(t, c, madeAt(now.Add(time.Hour)), "")
	finds(t, c, kmip.ObjectID("ffffffff-ffff-7fff-8fff-ffffffffffff"), "")
	if filtered, pages := l.asked(); filtered != 5 || pages != 0 {
		t.Errorf("%d lists by time and %d pages right after all keys were read", filtered, pages)
	}

	added := standard(kmip.ObjectID(uuid.NewString()), now)
	l.set(func() { l.instances[firstInstance] = append(keys, added) })
	finds(t, c, kmip.ObjectID(strings.TrimPrefix(added.Name, "vmware_kmip_")), "")
	now = now.Add(5 * time.Minute)
	finds(t, c, kmip.ObjectID(strings.TrimPrefix(added.Name, "vmware_kmip_")), added.ID)
	if _, pages := l.asked(); pages != 3 {
		t.Errorf("%d pages five minutes later", pages)
	}
}

func TestFindTakesTheOldestOfOneName(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, deleted := range map[string]int{"the older one is deleted": 0, "the newer one is deleted": 1} {
		t.Run(name, func(t *testing.T) {
			l := newLists(t)
			timed, imported := madeAt(now.Add(-time.Hour)), kmip.ObjectID(uuid.NewString())
			var keys []listed
			for _, id := range []kmip.ObjectID{timed, imported} {
				two := []listed{standard(id, now.Add(-time.Hour)), standard(id, now.Add(-time.Hour+time.Second))}
				two[deleted].State = 5
				keys = append(keys, two[1], two[0])
			}
			l.instances[firstInstance] = keys
			c := l.client(t, firstInstance, func() time.Time { return now })
			finds(t, c, timed, keys[1].ID)
			finds(t, c, imported, keys[3].ID)
		})
	}
}

// TestFindWithAClockThatIsBehind looks for a key that another node has just made,
// on one whose clock is an hour behind.
func TestFindWithAClockThatIsBehind(t *testing.T) {
	l, now := newLists(t), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := l.client(t, firstInstance, func() time.Time { return now.Add(-time.Hour) })
	finds(t, c, kmip.ObjectID(uuid.NewString()), "") // reads the list
	id := madeAt(now)
	made := standard(id, now)
	l.set(func() { l.instances[firstInstance] = []listed{made} })
	finds(t, c, id, made.ID)
}

// TestFindReadsTheListOnce for all who wait for it; who leaves does not stop it.
func TestFindReadsTheListOnce(t *testing.T) {
	l := newLists(t)
	id := kmip.ObjectID(uuid.NewString())
	k := standard(id, time.Now())
	asked, proceed := make(chan struct{}), make(chan struct{})
	l.instances[firstInstance] = []listed{k}
	l.refuse = func(http.ResponseWriter, *http.Request) bool {
		close(asked)
		<-proceed
		return false
	}
	c := l.client(t, firstInstance, time.Now)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := c.Find(ctx, id)
		left <- err
	}()
	<-asked
	leave()
	if err := <-left; !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("who left got %v", err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { finds(t, c, id, k.ID) })
	}
	close(proceed)
	all.Wait()
	if _, pages := l.asked(); pages != 1 {
		t.Errorf("%d pages", pages)
	}
}

// TestFindKeepsInstancesApart: one tenant's reading tells another nothing.
func TestFindKeepsInstancesApart(t *testing.T) {
	l := newLists(t)
	id := kmip.ObjectID(uuid.NewString())
	first, second := standard(id, time.Now()), standard(id, time.Now())
	l.instances[firstInstance] = []listed{first}
	one, two := l.client(t, firstInstance, time.Now), l.client(t, secondInstance, time.Now)
	finds(t, one, id, first.ID)
	finds(t, two, id, "")
	l.set(func() { l.instances[secondInstance] = []listed{second} })
	finds(t, l.client(t, secondInstance, time.Now), id, second.ID)
	finds(t, one, id, first.ID)
}

// TestFindNeverCallsUnknownWhatItCouldNotRead.
func TestFindNeverCallsUnknownWhatItCouldNotRead(t *testing.T) {
	now := time.Now()
	imported := kmip.ObjectID(uuid.NewString())
	for name, c := range map[string]struct {
		id     kmip.ObjectID
		keys   int
		refuse func(l *lists) func(w http.ResponseWriter, r *http.Request) bool
		want   fault.Kind
	}{
		"list by time fails": {madeAt(now), 1, func(*lists) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { refusal(w, 503, ""); return true }
		}, fault.Unavailable},
		"second page fails": {imported, 6000, func(*lists) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("offset") == "0" {
					return false
				}
				refusal(w, 500, "")
				return true
			}
		}, fault.Unavailable},
		"a key is purged between two pages": {imported, 6000, func(l *lists) func(http.ResponseWriter, *http.Request) bool {
			return func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Query().Get("offset") != "0" {
					l.instances[firstInstance] = l.instances[firstInstance][1:]
				}
				return false
			}
		}, fault.Unavailable},
		"more keys than are read": {imported, 0, func(*lists) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
				page := make([]listed, 5000)
				for n := range page {
					page[n].ID = fmt.Sprintf("00000000-0000-4000-8000-%012d", offset+n)
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"resources": page})
				return true
			}
		}, fault.Unavailable},
		"no permission": {imported, 1, func(*lists) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { refusal(w, 401, ""); return true }
		}, fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLists(t)
			for n := range c.keys {
				l.instances[firstInstance] = append(l.instances[firstInstance], standard(madeAt(now), now.Add(time.Duration(n)*time.Second)))
			}
			client := l.client(t, firstInstance, time.Now)
			l.set(func() { l.refuse = c.refuse(l) })
			if ref, err := client.Find(t.Context(), c.id); fault.KindOf(err) != c.want {
				t.Errorf("%q, %v, want %s", ref, err, c.want)
			}
			// A reading that failed is no reason to wait with the next.
			l.set(func() { l.refuse = nil })
			finds(t, client, c.id, "")
		})
	}
}

// TestFindInItsRingAlone, where the service ID may see no other.
func TestFindInItsRingAlone(t *testing.T) {
	l := newLists(t)
	id := kmip.ObjectID(uuid.NewString())
	k := standard(id, time.Now())
	l.instances[firstInstance] = []listed{k}
	l.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Kms-Key-Ring") != "" {
			return false
		}
		refusal(w, http.StatusUnauthorized, "")
		return true
	}
	finds(t, l.client(t, firstInstance, time.Now), id, k.ID)
}
