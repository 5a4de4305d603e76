package conn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// readers are goroutines that read requests from a device and answer them.
//
// One reader that waits at the device and answers a request itself is fastest by far:
// most answers take a few microseconds, less than to wake another thread, and when the
// asking thread goes on it and the reader share a processor's cache. So readers are as
// few as possible. There are more only when one takes long: it is on a slow device, or
// copies a large file. An observer, awake only while there are requests, looks every
// [patience] and starts another reader when nobody waits and the same requests are being
// answered as the last time. A request that is known to take long is preceded by that.
type readers struct {
	fd      int
	log     *log.Logger
	server  *fuse.ProtocolServer
	buffers sync.Pool // of *buffers
	enough  int32     // how many may wait at the device
	trim    func()    // from time to time, may be nil

	waiting atomic.Int32  // readers at the device
	all     atomic.Int32  // readers
	taken   atomic.Uint64 // requests so far
	asleep  atomic.Bool   // the observer waits for wake
	wake    chan struct{}
	end     sync.Once
	over    chan struct{}  // closed when the mount has ended
	running sync.WaitGroup // of readers and the observer
}

const (
	// patience is for how long a request may keep others waiting.
	patience = time.Millisecond
	// idleTicks is after how many looks without a request the observer goes to sleep.
	idleTicks = 20
	// maxReaders bounds the number of requests that are answered at a time.
	maxReaders = 256
	// trimEvery is how many requests come between two calls of Trim. Each touches a page
	// or a few, and the kernel maps sixteen around each page that is touched, so no more
	// than some 10 MiB are mapped at a time.
	trimEvery = 128
	// processorsPerReader: where there are many processors, that many share a reader.
	processorsPerReader = 4
)

// Trimmer is a file system that has files mapped. Their pages are in the page cache in
// any case; that a server has them mapped only makes it look large, and them harder to
// reclaim. Trim gives them back.
type Trimmer interface{ Trim() }

// buffers hold a request and its answer.
type buffers struct{ in, out []byte }

// The layout of struct fuse_in_header and fuse_out_header (include/uapi/linux/fuse.h).
const (
	inOpcode   = 4
	inUnique   = 8
	inHeader   = 40
	outError   = 4
	outUnique  = 8
	outHeader  = 16
	minRequest = 8192 // the kernel refuses to read into less
	extra      = 4096 // more than what comes before the data of a request
)

// Numbers of requests (enum fuse_opcode) that wait for a disk.
const (
	opFsync         = 20
	opFsyncDir      = 30
	opFallocate     = 43
	opCopyFileRange = 47
)

func newReaders(fd int, fs fuse.RawFileSystem, opts *fuse.MountOptions) *readers {
	size := max(opts.MaxWrite+extra, minRequest)
	r := &readers{
		fd: fd, log: opts.Logger, server: fuse.NewProtocolServer(fs, opts),
		buffers: sync.Pool{New: func() any { return &buffers{in: make([]byte, size), out: make([]byte, size)} }},
		enough:  max(1, int32(runtime.GOMAXPROCS(0)/processorsPerReader)),
		wake:    make(chan struct{}, 1), over: make(chan struct{}),
	}
	if t, ok := fs.(Trimmer); ok {
		r.trim = t.Trim
	}
	return r
}

// agree answers the first request, in which the kernel says what it can do.
func (r *readers) agree() error {
	b := r.take()
	defer r.buffers.Put(b)
	n, err := r.read(b.in)
	if err != nil {
		return fmt.Errorf("read first request: %w", err)
	}
	size := r.answer(b, n)
	if size < outHeader {
		return fmt.Errorf("first request of %d bytes: %w", n, unix.EPROTO)
	}
	if errno := -int32(binary.NativeEndian.Uint32(b.out[outError:])); errno != 0 {
		return fmt.Errorf("first request: %w", unix.Errno(errno))
	}
	return nil
}

func (r *readers) take() *buffers {
	b, ok := r.buffers.Get().(*buffers)
	if !ok {
		panic("conn: a pool of buffers holds something else")
	}
	return b
}

// serve answers requests until the mount has ended.
func (r *readers) serve() {
	r.running.Add(1)
	go func() {
		defer r.running.Done()
		r.observe()
	}()
	r.start()
	r.running.Wait()
}

// start adds a reader, unless there are too many.
func (r *readers) start() {
	if r.all.Add(1) > maxReaders {
		r.all.Add(-1)
		return
	}
	r.waiting.Add(1)
	r.running.Add(1)
	go func() {
		defer r.running.Done()
		defer r.all.Add(-1)
		r.loop()
	}()
}

// loop answers requests until the mount has ended or there are enough other readers. The
// caller has counted it as waiting.
func (r *readers) loop() {
	b := r.take()
	defer r.buffers.Put(b)
	for {
		n, err := r.read(b.in)
		others := r.waiting.Add(-1)
		if err != nil {
			if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ECONNABORTED) {
				r.log.Printf("read request: %v", err)
			}
			r.end.Do(func() { close(r.over) })
			return
		}
		if r.taken.Add(1)%trimEvery == 0 && r.trim != nil {
			r.trim()
		}
		if r.asleep.Load() && r.asleep.CompareAndSwap(true, false) {
			r.wake <- struct{}{}
		}
		if n >= inHeader && others == 0 {
			switch binary.NativeEndian.Uint32(b.in[inOpcode:]) {
			case opFsync, opFsyncDir, opFallocate, opCopyFileRange:
				r.start()
			}
		}
		r.answer(b, n)
		if r.waiting.Add(1) > r.enough {
			r.waiting.Add(-1)
			return
		}
	}
}

// read waits for a request and returns its length.
func (r *readers) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(r.fd, p)
		switch {
		case err == nil && n == 0:
			return 0, unix.ENODEV
		case err == nil:
			return n, nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOENT): // ENOENT: it was withdrawn
			return 0, err
		}
	}
}

// answer has a request answered and returns the length of the answer, which is 0 when
// there is none.
func (r *readers) answer(b *buffers, n int) int {
	size, status := r.server.HandleRequest([][]byte{b.in[:n]}, [][]byte{b.out})
	if size == 0 && status != fuse.OK && n >= inHeader {
		// Nobody has understood it, but somebody waits.
		clear(b.out[:outHeader])
		binary.NativeEndian.PutUint32(b.out, outHeader)
		binary.NativeEndian.PutUint32(b.out[outError:], uint32(-int32(status)))
		copy(b.out[outUnique:outHeader], b.in[inUnique:])
		size = outHeader
	}
	if size == 0 {
		return 0
	}
	for {
		_, err := unix.Write(r.fd, b.out[:size])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV): // nobody waits any more
			r.log.Printf("answer request: %v", err)
		}
		return size
	}
}

// observe starts readers when those that there are take long.
func (r *readers) observe() {
	tick := time.NewTimer(patience)
	defer tick.Stop()
	var last uint64
	for idle := 0; ; {
		tick.Reset(patience)
		select {
		case <-r.over:
			return
		case <-tick.C:
		}
		taken := r.taken.Load()
		switch {
		case taken != last:
			last, idle = taken, 0
		case r.waiting.Load() == 0:
			r.start()
		default:
			idle++
		}
		if idle < idleTicks {
			continue
		}
		idle = 0
		r.asleep.Store(true)
		// A reader that had taken a request before it could see this wakes nobody.
		if r.waiting.Load() == 0 && r.asleep.CompareAndSwap(true, false) {
			continue
		}
		select {
		case <-r.over:
			return
		case <-r.wake:
		}
	}
}
