package engine

// Waiting is how many Gets wait for calls to a key manager.
func (e *Engine) Waiting() (n int) {
	e.flights.mu.Lock()
	defer e.flights.mu.Unlock()
	for _, one := range e.flights.under {
		n += one.waiting
	}
	return n
}
