package main

import (
	"os"

	"github.com/layerfs/layerfs/runtime"
)

// programVariable has the path of this program when it was executed from a mount of its
// own, where /proc/self/exe does not tell it.
const programVariable = "LAYERFS_PROGRAM"

// seal makes sure that containers cannot write to this program's file, by executing the
// command anew: see [runtime.Seal]. So it must be called before anything is done or
// printed.
func (a *app) seal() error {
	if a.args == nil || os.Geteuid() != 0 {
		return nil // not a program of its own, or it enters a namespace first
	}
	return runtime.Seal(a.args, sealedEnv())
}

// sealedEnv is the environment for a program that is executed from a mount of its own.
func sealedEnv() []string {
	path, err := programPath()
	if err != nil {
		return os.Environ()
	}
	return append(os.Environ(), programVariable+"="+path) // of two the last counts
}

// programPath is where this program lies.
func programPath() (string, error) {
	path, err := os.Executable()
	if err == nil && path != "/" { // what the kernel says of a mount that is attached nowhere
		return path, nil
	}
	if path := os.Getenv(programVariable); path != "" {
		return path, nil
	}
	return "", os.ErrNotExist
}
