package message

// Len returns the length of the current item's value without padding.
func (c *Cursor) Len() int { return max(0, len(c.item)-headSize) }
