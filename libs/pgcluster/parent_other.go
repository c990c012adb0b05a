//go:build !linux

package pgcluster

import "syscall"

// dieWithParent does nothing where the kernel offers nothing: the attendant
// shuts the server down.
func dieWithParent(*syscall.SysProcAttr) {}
