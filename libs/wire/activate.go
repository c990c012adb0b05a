package wire

import (
	"context"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// activate carries out Activate (KMIP 1.4, 4.19).
func (b *batch) activate(ctx context.Context, c message.Cursor) error {
	id, err := b.decodeIdentified(c)
	if err != nil {
		return err
	}
	if err := b.target(id); err != nil {
		return err
	}
	if err := b.responder.Engine.Activate(ctx, b.tenant, id); err != nil {
		return err
	}
	b.answer.putIdentifier(id)
	return nil
}
