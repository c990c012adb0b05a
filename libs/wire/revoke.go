package wire

import (
	"context"
	"time"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// revokeRequest is the Request Payload of Revoke (KMIP 1.4, 4.20).
type revokeRequest struct {
	id       *string
	why      kmip.Revocation
	occurred time.Time // zero without one
}

func decodeRevoke(c message.Cursor, d decoding) (r revokeRequest, err error) {
	reason := false
	err = eachField(c, d, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagUniqueIdentifier:
			r.id, err = decodeIdentifier(f)
		case kmip14.TagRevocationReason:
			r.why, err = decodeRevocation(f, d)
			reason = true
		case kmip14.TagCompromiseOccurrenceDate:
			r.occurred, err = f.Time()
		default:
			err = errUnknownField
		}
		return err
	})
	if err == nil && !reason {
		err = fault.New(fault.Missing, "Revocation Reason is missing.")
	}
	return r, err
}

// decodeRevocation reads a Revocation Reason (KMIP 1.4, 3.31).
func decodeRevocation(c message.Cursor, d decoding) (why kmip.Revocation, err error) {
	fields, err := c.Children()
	if err != nil {
		return why, err
	}
	err = eachField(fields, decoding{ignoreUnknown: d.ignoreUnknown}, func(f message.Cursor) (err error) {
		switch f.Tag() {
		case kmip14.TagRevocationReasonCode:
			var code uint32
			code, err = f.Enum()
			why.Reason = kmip.RevocationReason(code)
		case kmip14.TagRevocationMessage:
			why.Message, err = f.Text()
		default:
			err = errUnknownField
		}
		return err
	})
	return why, err
}

// revoke carries out Revoke.
func (b *batch) revoke(ctx context.Context, c message.Cursor) (payload, error) {
	r, err := decodeRevoke(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(r.id)
	if err != nil {
		return nil, err
	}
	return identified{id}, b.responder.Engine.Revoke(ctx, b.tenant, id, r.why, r.occurred)
}
