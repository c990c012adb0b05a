package node

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ForbidCoreDumps keeps key bytes in memory from reaching a disk when the
// process crashes, and other processes of the same user from reading them.
func ForbidCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core dumps can't be forbidden: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("core dumps can't be forbidden: %w", err)
	}
	return nil
}
