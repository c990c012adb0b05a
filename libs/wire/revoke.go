package wire

import (
	"context"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// revokeRequest is the Request Payload of Revoke (KMIP 1.4, 4.20).
type revokeRequest struct {
	id       kmip.ObjectID
	why      kmip.Revocation
	occurred time.Time // zero without one
}

func (d *decoding) decodeRevoke(c message.Cursor) (r revokeRequest, err error) {
	r.id = d.placeholder
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, f.err = identifier(&f)
		case kmip14.TagRevocationReason:
			r.why, f.err = d.decodeRevocation(f.Cursor)
		case kmip14.TagCompromiseOccurrenceDate:
			r.occurred, f.err = f.Time()
		default:
			f.unknown()
		}
	}
	return r, f.done(kmip14.TagRevocationReason)
}

// decodeRevocation reads a Revocation Reason (KMIP 1.4, 3.31).
func (d *decoding) decodeRevocation(c message.Cursor) (why kmip.Revocation, err error) {
	f := fields{later: d.later}
	for f.open(c); f.next(); {
		switch f.Tag() {
		case kmip14.TagRevocationReasonCode:
			why.Reason, f.err = enum[kmip.RevocationReason](&f)
		case kmip14.TagRevocationMessage:
			why.Message, f.err = f.Text()
		default:
			f.unknown()
		}
	}
	return why, f.done()
}

// revoke carries out Revoke.
func (b *batch) revoke(ctx context.Context, c message.Cursor) error {
	r, err := b.decodeRevoke(c)
	if err != nil {
		return err
	}
	if err := b.target(r.id); err != nil {
		return err
	}
	if err := b.responder.Engine.Revoke(ctx, b.tenant, r.id, r.why, r.occurred); err != nil {
		return err
	}
	b.answer.putIdentifier(r.id)
	return nil
}
