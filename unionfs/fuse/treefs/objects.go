package treefs

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/tree"
)

// maxOpen is how many objects stay open when no request uses them.
const maxOpen = 256

// objects opens contents and keeps the last used ones open: a file that is read in many
// requests is opened once. It is safe for concurrent use.
type objects struct {
	dirs []*os.File

	mu   sync.Mutex
	kept map[tree.ObjectID]*list.Element // of *object
	used list.List                       // the last used at the front
}

// object is an open content. Who has one from open releases it.
type object struct {
	id   tree.ObjectID
	file *os.File
	from *objects
	refs int // requests that use it, and one for being kept; guarded by objects.mu

	position sync.Mutex // seeking moves the position of the file, which nothing else uses
}

func newObjects(dirs []string) (*objects, error) {
	o := &objects{kept: map[tree.ObjectID]*list.Element{}}
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open data directory %s: %w", dir, err), o.close())
		}
		o.dirs = append(o.dirs, os.NewFile(uintptr(fd), dir))
	}
	return o, nil
}

// open returns an object, opened in the first directory that has it.
func (o *objects) open(id tree.ObjectID) (*object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e, ok := o.kept[id]; ok {
		o.used.MoveToFront(e)
		x := o.at(e)
		x.refs++
		return x, nil
	}
	for _, dir := range o.dirs {
		fd, err := unix.Openat(int(dir.Fd()), id.Path(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		const keptAndReturned = 2
		x := &object{id: id, file: os.NewFile(uintptr(fd), id.Path()), from: o, refs: keptAndReturned}
		o.kept[id] = o.used.PushFront(x)
		if o.used.Len() > maxOpen {
			o.drop(o.used.Back())
		}
		return x, nil
	}
	return nil, unix.ENOENT
}

func (o *objects) at(e *list.Element) *object {
	x, ok := e.Value.(*object)
	if !ok {
		panic("treefs: a list of objects holds something else")
	}
	return x
}

// drop keeps an object no longer. The caller holds the mutex.
func (o *objects) drop(e *list.Element) {
	x := o.at(e)
	o.used.Remove(e)
	delete(o.kept, x.id)
	x.unref()
}

func (x *object) release() {
	x.from.mu.Lock()
	defer x.from.mu.Unlock()
	x.unref()
}

func (x *object) unref() {
	if x.refs--; x.refs == 0 {
		_ = x.file.Close() // opened for reading
	}
}

// seek finds data or a hole.
func (x *object) seek(offset int64, whence int) (int64, error) {
	x.position.Lock()
	defer x.position.Unlock()
	return unix.Seek(int(x.file.Fd()), offset, whence)
}

func (o *objects) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := o.used.Front(); e != nil; e = o.used.Front() {
		o.drop(e)
	}
	var errs []error
	for _, d := range o.dirs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
