package pgcluster

import "syscall"

// dieWithParent makes the kernel shut the server down at once when the thread
// that starts it ends: that thread has to live as long as the server.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
