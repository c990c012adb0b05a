package message

// FieldSize is the memory of a kmip.Field in bytes.
const FieldSize = fieldSize

// Len returns the length of the current item's value without padding.
func (c *Cursor) Len() int { return len(c.value()) }
