package wire

import (
	"context"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// destroy carries out Destroy (KMIP 1.4, 4.21).
func (b *batch) destroy(ctx context.Context, c message.Cursor) (payload, error) {
	named, err := decodeIdentified(c, b.decoding)
	if err != nil {
		return nil, err
	}
	id, err := b.target(named)
	if err != nil {
		return nil, err
	}
	return identified{id}, b.responder.Engine.Destroy(ctx, b.tenant, id)
}
