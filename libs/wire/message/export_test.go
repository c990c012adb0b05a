package message

// Len returns the length of the current item's value without padding.
func (c *Cursor) Len() int { return len(c.value()) }
