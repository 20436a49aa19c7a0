//go:build linux

package lab

import "syscall"

// dieWithParent has the kernel end the child with the thread that started it.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
