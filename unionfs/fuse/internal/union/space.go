package union

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// The space of a removed file is free when the kernel has told that it has forgotten
// the file, which is a moment after it has told who removed it that it is done.
const (
	spaceRecent = time.Second          // a removal that long ago is done with
	spaceTries  = 20                   // how often a call is tried again
	spaceWait   = 2 * time.Millisecond // between two tries
)

// space makes a call that takes space, again if need be when a file was removed just
// before.
func (f *FS) space(call func() error) error {
	for try := 0; ; try++ {
		err := call()
		if err == nil || try == spaceTries || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) ||
			time.Since(time.Unix(0, f.unlinked.Load())) > spaceRecent {
			return err
		}
		time.Sleep(spaceWait)
	}
}
