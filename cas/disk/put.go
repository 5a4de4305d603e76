package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// PutObject implements [cas.ObjectSink]. Data that the batch or the store has is not
// stored again; two puts of the same id at the same time store it once. When it fails
// for another reason than ctx or a closed ingest, nothing can be published any more.
func (in *Ingest) PutObject(ctx context.Context, id tree.ObjectID, data []byte) error {
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := in.usable(ctx); err != nil {
		return fmt.Errorf("put object: %w", err)
	}
	if id.IsZero() {
		return fmt.Errorf("put object: no id: %w", fs.ErrInvalid)
	}
	ref := objectRef{id, int64(len(data))}
	if !in.claim(id) {
		in.known(ref.size)
		return nil
	}
	ok, err := in.present(ref)
	if err == nil {
		if ok {
			in.known(ref.size)
			return nil
		}
		err = in.writeSmall(ref, data)
	}
	if err != nil {
		err = fmt.Errorf("put object %s: %w", id.Digest(), err)
		in.poison(err)
	}
	return err
}

// writeSmall creates one file in a slab. Each putter has a slab for itself meanwhile:
// the kernel creates files in one directory one after another.
func (in *Ingest) writeSmall(ref objectRef, data []byte) error {
	sl, err := in.takeSlab()
	if err != nil {
		return err
	}
	name := strconv.Itoa(sl.made)
	sl.made++
	err = in.writeFile(sl.dir, name, data)
	in.wrote(len(data))
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil {
		sl.objects = append(sl.objects, ref)
		in.stats.Objects.Count++
		in.stats.Objects.Bytes += ref.size
	} else {
		sl.objects = append(sl.objects, objectRef{}) // keeps names and indices in step
	}
	if sl.made < slabFiles {
		in.idle = append(in.idle, sl)
		return err
	}
	in.full = append(in.full, sl)
	return errors.Join(err, sl.dir.Close())
}

// takeSlab returns a directory that nobody else uses now.
func (in *Ingest) takeSlab() (*slab, error) {
	in.mu.Lock()
	if n := len(in.idle); n > 0 {
		sl := in.idle[n-1]
		in.idle = in.idle[:n-1]
		in.mu.Unlock()
		return sl, nil
	}
	sl := &slab{name: "s" + strconv.Itoa(in.slabs)}
	in.slabs++
	in.mu.Unlock()
	if err := unix.Mkdirat(int(in.dir.Fd()), sl.name, 0o700); err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: in.path(sl.name), Err: err}
	}
	var err error
	sl.dir, err = in.s.root.Open(in.path(sl.name))
	sl.objects = make([]objectRef, 0, 64)
	return sl, err
}

// writeFile creates a file of mode 0444 with the data.
func (in *Ingest) writeFile(dir *os.File, name string, data []byte) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return &fs.PathError{Op: "create", Path: dir.Name() + "/" + name, Err: err}
	}
	for len(data) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, data)
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
		data = data[max(n, 0):]
	}
	if err == nil && in.chmod {
		err = unix.Fchmod(fd, 0o444)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: dir.Name() + "/" + name, Err: err}
	}
	return nil
}
