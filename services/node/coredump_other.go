//go:build !linux

package node

// ForbidCoreDumps does nothing where there is no Linux kernel.
func ForbidCoreDumps() error { return nil }
