package main

import (
	"os"
	"syscall"
)

// maxResident returns the largest resident size of a process that has ended, in bytes.
func maxResident(p *os.ProcessState) int64 {
	if u, ok := p.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss << 10
	}
	return 0
}
