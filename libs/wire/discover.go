package wire

import (
	"context"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decodeDiscoverVersions returns the versions that the client speaks, none if
// it asks for all (KMIP 1.4, 4.26). vCenter sends none.
func (d *decoding) decodeDiscoverVersions(c message.Cursor) (listed []version, err error) {
	f := fields{later: d.later, repeatable: kmip14.TagProtocolVersion}
	for f.open(c); f.next(); {
		if f.Tag() == kmip14.TagProtocolVersion {
			var v version
			v, f.err = d.parseVersion(f.Cursor)
			listed = append(listed, v)
		} else {
			f.unknown()
		}
	}
	return listed, f.done()
}

// discoverVersions answers with the server's versions, highest first, that the
// client listed, or all if it listed none. It asks nobody, so that it succeeds
// while a key manager is away.
func (b *batch) discoverVersions(_ context.Context, c message.Cursor) error {
	listed, err := b.decodeDiscoverVersions(c)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if len(listed) == 0 || slices.Contains(listed, v) {
			putVersion(&b.answer.Writer, v)
		}
	}
	return nil
}
