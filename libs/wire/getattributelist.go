package wire

import (
	"context"

	"github.com/gemalto/kmip-go/kmip14"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// getAttributeList carries out Get Attribute List: the names of the attributes
// that have a value and that the version knows, each once (KMIP 1.4, 4.13).
func (b *batch) getAttributeList(ctx context.Context, c message.Cursor) error {
	id, err := b.decodeIdentified(c)
	if err != nil {
		return err
	}
	if err := b.target(id); err != nil {
		return err
	}
	attributes, err := b.responder.Engine.Attributes(ctx, b.tenant, id, nil)
	if err != nil {
		return err
	}
	b.answer.putIdentifier(id)
	listed := make(map[string]bool, len(attributes))
	for i := range attributes {
		if name := attributes[i].Name; !listed[name] && b.answer.knows(name) {
			listed[name] = true
			b.answer.Text(kmip14.TagAttributeName, name)
		}
	}
	return nil
}
