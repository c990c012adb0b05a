package wire

import (
	"context"
	"slices"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// decodeDiscoverVersions returns the versions that the client speaks, none if
// it asks for all (KMIP 1.4, 4.26). vCenter sends none.
func decodeDiscoverVersions(c message.Cursor, d decoding) (listed []version, err error) {
	d.repeatable[0] = kmip14.TagProtocolVersion
	err = eachField(c, d, func(f message.Cursor) error {
		if f.Tag() != kmip14.TagProtocolVersion {
			return errUnknownField
		}
		v, err := parseVersion(f)
		listed = append(listed, v)
		return err
	})
	return listed, err
}

func (b *batch) discoverVersions(_ context.Context, c message.Cursor) (payload, error) {
	listed, err := decodeDiscoverVersions(c, b.decoding)
	return discovered{listed}, err
}

// discovered is the Response Payload of Discover Versions (KMIP 1.4, 4.26):
// the server's versions, highest first, that the client listed, or all if it
// listed none.
type discovered struct {
	listed []version
}

func (p discovered) put(e *ttlv.Encoder, _ version) error {
	for _, v := range versions {
		if len(p.listed) > 0 && !slices.Contains(p.listed, v) {
			continue
		}
		if err := putVersion(e, v); err != nil {
			return err
		}
	}
	return nil
}
