package wire

import (
	"context"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// destroy carries out Destroy (KMIP 1.4, 4.21).
func (b *batch) destroy(ctx context.Context, c message.Cursor) error {
	id, err := b.decodeIdentified(c)
	if err != nil {
		return err
	}
	if err := b.target(id); err != nil {
		return err
	}
	if err := b.responder.Engine.Destroy(ctx, b.tenant, id); err != nil {
		return err
	}
	b.answer.putIdentifier(id)
	return nil
}
