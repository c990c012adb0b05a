package dev

import "syscall"

// dieWithParent makes the kernel kill a program when the thread that starts it
// ends: that thread has to live as long as the program.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
