package conn

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Limits of requests. A reader has a buffer for a request of the largest size and one
// for its answer, so they bound the memory of a server.
const (
	MaxRequest    = 1 << 20 // bytes read or written by one request, the kernel's own limit
	MaxBackground = 64      // requests that the kernel sends ahead without waiting
)

// Server serves a file system on a device.
type Server struct {
	*readers
	ended chan struct{}
}

// Start serves fs on the device, which it takes over, in goroutines. opts are the
// capabilities that fs wants; what concerns mounting in them is ignored, and fs.Init is
// not called. Start returns when the kernel and the server have agreed on the protocol.
func Start(dev *os.File, fs fuse.RawFileSystem, opts fuse.MountOptions) (*Server, error) {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", dev.Name(), err), dev.Close())
	}
	if err := dev.Close(); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if opts.MaxWrite == 0 {
		opts.MaxWrite = MaxRequest
	}
	if opts.MaxBackground == 0 {
		opts.MaxBackground = MaxBackground
	}
	if opts.Logger == nil {
		opts.Logger = log.New(io.Discard, "", 0)
	}
	opts.Name = Subtype
	s := &Server{readers: newReaders(fd, fs, &opts), ended: make(chan struct{})}
	if err := s.agree(); err != nil {
		return nil, errors.Join(fmt.Errorf("start FUSE server: %w", err), unix.Close(fd))
	}
	go func() {
		defer close(s.ended)
		s.serve()
		_ = unix.Close(fd) // the mount has ended
		fs.OnUnmount()
	}()
	return s, nil
}

// Ended is closed when the mount has ended and fs.OnUnmount has returned.
func (s *Server) Ended() <-chan struct{} { return s.ended }
