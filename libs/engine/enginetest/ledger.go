package enginetest

import (
	"context"
	"slices"
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// Ledgers checks what an implementation of engine.Ledger can beyond
// engine.Objects. Open returns an empty one in which one and two exist as
// tenants, and a writer of rows in it.
func Ledgers(t *testing.T, open func(t *testing.T, one, two tenant.ID) (engine.Ledger, engine.Objects)) {
	one, two := NewTenantID(), NewTenantID()

	t.Run("all rows of a tenant are listed in their order", func(t *testing.T) {
		ledger, objects := open(t, one, two)
		var want []kmip.ObjectID
		for _, phase := range []engine.Phase{engine.Pending, engine.Live, engine.Destroying, engine.Gone} {
			for range 300 { // more than a page in all
				r := NewRecord()
				r.Phase, r.KeyRef, r.Recovered = phase, "ref", phase == engine.Live
				create(t, objects, one, r)
				want = append(want, r.Object.ID)
			}
			create(t, objects, two, NewRecord())
		}
		var got []kmip.ObjectID
		for after := int64(0); ; {
			page, err := ledger.ListRows(t.Context(), one, after)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				if r.Place <= after || r.Version != 1 || r.Overdue || r.Location.RootKeyID != "root" || len(r.Object.Digest) != 3 || r.Recovered != (r.Phase == engine.Live) {
					t.Fatalf("row %+v after %d", r, after)
				}
				got, after = append(got, r.Object.ID), r.Place
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d rows, want %d", len(got), len(want))
		}
	})

	t.Run("what other tenants have is told, and nothing more", func(t *testing.T) {
		ledger, objects := open(t, one, two)
		mine, theirs, both := NewRecord(), NewRecord(), NewRecord()
		create(t, objects, one, mine)
		create(t, objects, one, both)
		create(t, objects, two, theirs)
		create(t, objects, two, both)
		ask := []kmip.ObjectID{mine.Object.ID, theirs.Object.ID, both.Object.ID, NewRecord().Object.ID, "not-a-uuid", "\x00\xff"}
		want := []kmip.ObjectID{theirs.Object.ID, both.Object.ID}
		got, err := ledger.RecordedElsewhere(t.Context(), one, ask)
		slices.Sort(got)
		if slices.Sort(want); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		if rest, err := ledger.RecordedElsewhere(t.Context(), one, nil); err != nil || len(rest) != 0 {
			t.Errorf("of nothing: %v, %v", rest, err)
		}
	})
}

var _ engine.Ledger = (*Ledger)(nil)

// ListRows implements engine.Ledger, a few rows at a time.
func (l *Ledger) ListRows(ctx context.Context, t tenant.ID, after int64) (page []engine.Row, err error) {
	err = l.call(ctx, "ListRows", func() error {
		for i := after; i < int64(len(l.made)) && len(page) < 3; i++ {
			if k := l.made[i]; k.tenant == t {
				page = append(page, engine.Row{Record: l.rows[k], Place: i + 1})
			}
		}
		return nil
	})
	return page, err
}

// RecordedElsewhere implements engine.Ledger.
func (l *Ledger) RecordedElsewhere(ctx context.Context, t tenant.ID, ids []kmip.ObjectID) (elsewhere []kmip.ObjectID, err error) {
	err = l.call(ctx, "RecordedElsewhere", func() error {
		for _, k := range l.made {
			if k.tenant != t && slices.Contains(ids, k.object) {
				elsewhere = append(elsewhere, k.object)
			}
		}
		return nil
	})
	return elsewhere, err
}
