//go:build linux

package faults

import (
	"fmt"
	"os"
	"syscall"
)

// canMount tells whether file systems of a given size can be made: by root alone.
func canMount() bool { return os.Geteuid() == 0 }

// mount makes a file system in memory of a size.
func mount(folder string, megabytes int) error {
	return syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", megabytes))
}

func unmount(folder string) error { return syscall.Unmount(folder, syscall.MNT_DETACH) }
