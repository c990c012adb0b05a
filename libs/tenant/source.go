package tenant

import (
	"context"
	"errors"
)

// ErrTooOld is returned by Watch when the changes after a revision can't be
// told any more, or when that revision never happened (the database was
// restored): load a full snapshot.
var ErrTooOld = errors.New("tenant: no way from this revision to the newest; load a full snapshot")

// ErrGap is returned by Apply when a delta doesn't begin at the snapshot's
// revision.
var ErrGap = errors.New("tenant: delta does not continue this snapshot")

// Source gives one cell's configuration.
type Source interface {
	// Snapshot returns the configuration at the newest revision, read as one
	// consistent state.
	Snapshot(ctx context.Context) (*Snapshot, []Quarantined, error)
	// Watch calls apply with every change after a revision, in order and with
	// nothing left out, until ctx ends or apply fails; one delta may span
	// several revisions. It calls apply within a second of a commit, and
	// about as often with a delta that leads nowhere (After equals To): then
	// that revision is still the newest. It survives lost database connections
	// by itself and returns ErrTooOld when it can't continue.
	Watch(ctx context.Context, after Revision, apply func(Delta) error) error
}
