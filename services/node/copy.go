package node

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// diskCopy is the configuration on a volume that outlives the process: one file
// of frames, each sealed with the operator's keyring. The first holds
// everything, each further one a delta and when it was known to be the newest.
// A node that starts while PostgreSQL is away serves what it holds.
//
// A copy that misses a change is worse than none, since it would admit what was
// removed: whatever can't be written ends the copy, until a full one can be
// written again.
type diskCopy struct {
	path    string
	keyring func() (*secret.Keyring, error)
	file    *os.File // open for appending; nil without a copy that is up to date
	whole   int      // bytes of its first frame
	added   int      // bytes of the others
	saved   time.Time
}

const (
	copyFile = "configuration"
	// copyFormat changes when older programs would misread a copy, or newer
	// ones an older copy.
	copyFormat  = 1
	copyPurpose = "node-configuration"
	// maxFrame bounds what is read before it is opened: 100,000 tenants have
	// some 100 MiB.
	maxFrame = 1 << 30
	// minAdded is added to a copy, and at least its own size, before it is
	// written anew.
	minAdded = 1 << 20
	// confirmEvery is how often it is noted that nothing has changed: that much
	// of its age a copy may forget.
	confirmEvery = time.Minute
)

// frame is what one frame seals.
type frame struct {
	Format    int          `json:"format"`
	Confirmed time.Time    `json:"confirmed"` // when To was known to be the newest
	Delta     tenant.Delta `json:"delta"`     // from nothing, in the first frame
}

// read returns the configuration that the copy holds and when it was last
// known to be the newest. The end of a file that was being written when the
// node died is left out.
func (c *diskCopy) read() (s *tenant.Snapshot, quarantined []tenant.Quarantined, confirmed time.Time, err error) {
	f, err := os.Open(c.path)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	defer f.Close()
	ring, err := c.keyring()
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	for {
		next, err := openFrame(f, ring)
		switch {
		case err != nil && s == nil:
			return nil, nil, time.Time{}, fmt.Errorf("%s: %w", c.path, err)
		case err != nil: // the end, torn or not
			return s, quarantined, confirmed, nil //nolint:nilerr // what came before is whole
		case s == nil:
			s, quarantined = tenant.NewSnapshot(next.Delta.To, next.Delta.Changed, next.Delta.Unreadable...)
		case next.Delta.After == next.Delta.To && next.Delta.To == s.Revision():
		default:
			if s, quarantined, err = s.Apply(next.Delta); err != nil {
				return nil, nil, time.Time{}, fmt.Errorf("%s: %w", c.path, err)
			}
		}
		confirmed = next.Confirmed
	}
}

func openFrame(r io.Reader, ring *secret.Keyring) (frame, error) {
	var next frame
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return next, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		return next, errors.New("a frame has no possible length")
	}
	var sealed bytes.Buffer // grows with what is there, not with what is claimed
	if n, err := io.CopyN(&sealed, r, int64(size)); err != nil {
		return next, fmt.Errorf("a frame ends after %d of %d bytes: %w", n, size, err)
	}
	plain, err := ring.Open(copyPurpose, "", sealed.Bytes())
	if err != nil {
		return next, err
	}
	defer plain.Wipe()
	decoder := json.NewDecoder(bytes.NewReader(plain.Reveal()))
	decoder.DisallowUnknownFields() // a setting that this version does not know
	if err := decoder.Decode(&next); err != nil {
		return next, err
	}
	if next.Format != copyFormat {
		return next, fmt.Errorf("its format %d is not known to this version", next.Format)
	}
	return next, nil
}

// add notes a delta, or that there is none; s is what it leads to. A full copy
// is written when there is no file to add to.
func (c *diskCopy) add(d tenant.Delta, s *tenant.Snapshot, now time.Time) error {
	if d.After == d.To && c.file != nil && now.Sub(c.saved) < confirmEvery {
		return nil
	}
	if c.file == nil || c.added >= max(minAdded, c.whole) {
		return c.replace(s, now)
	}
	n, err := c.write(c.file, frame{Format: copyFormat, Confirmed: now, Delta: d})
	if err != nil {
		return errors.Join(err, c.drop())
	}
	c.added, c.saved = c.added+n, now
	return nil
}

// replace writes a full copy in place of the one that may be there.
func (c *diskCopy) replace(s *tenant.Snapshot, now time.Time) error {
	all, unreadable := s.All()
	fresh := c.path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, c.drop())
	}
	n, err := c.write(f, frame{Format: copyFormat, Confirmed: now, Delta: tenant.Delta{
		To: s.Revision(), Changed: all, Unreadable: unreadable,
	}})
	if err == nil {
		err = os.Rename(fresh, c.path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(c.path))
	}
	if err != nil {
		_ = os.Remove(fresh) // it may be gone, or be the copy that is dropped
		return errors.Join(err, f.Close(), c.drop())
	}
	if c.file != nil {
		_ = c.file.Close() // its name is another file's by now
	}
	c.file, c.whole, c.added, c.saved = f, n, 0, now
	return nil
}

// write seals a frame and puts it on the disk. It returns its length in bytes.
func (c *diskCopy) write(f *os.File, next frame) (int, error) {
	ring, err := c.keyring()
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(next)
	if err != nil {
		return 0, err
	}
	sealed, err := ring.Seal(copyPurpose, "", secret.Of(text))
	if err != nil {
		return 0, err
	}
	n, err := f.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)) //nolint:gosec // far below
	if err != nil {
		return 0, err
	}
	return n, f.Sync()
}

// drop ends the copy: there is none until replace.
func (c *diskCopy) drop() error {
	var err error
	if c.file != nil {
		err = c.file.Close()
		c.file = nil
	}
	if removed := os.Remove(c.path); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

// syncFolder makes a rename in a folder outlive a power cut.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
