package wire

import (
	"context"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// activate carries out Activate (KMIP 1.4, 4.19).
func (b *batch) activate(ctx context.Context, c message.Cursor) (payload, error) {
	named, err := decodeIdentified(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(named)
	if err != nil {
		return nil, err
	}
	return identified{id}, b.responder.Engine.Activate(ctx, b.tenant, id)
}
