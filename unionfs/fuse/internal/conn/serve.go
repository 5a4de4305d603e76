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

// Limits of requests. A request of the largest size has a buffer of its own, so they
// bound the memory of a server.
const (
	MaxRequest    = 1 << 20 // bytes read or written by one request, the kernel's own limit
	MaxBackground = 64      // requests that the kernel sends ahead without waiting
)

// Server serves a file system on a device.
type Server struct {
	*fuse.Server
	ended chan struct{}
}

// Start serves fs on the device, which it takes over, in goroutines. opts are the
// capabilities that fs wants; what concerns mounting in them is ignored. Start returns
// when the kernel and the server have agreed on the protocol.
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
	// With a mount point of this form the library mounts nothing.
	srv, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), &opts)
	if err != nil {
		return nil, fmt.Errorf("start FUSE server: %w", err)
	}
	s := &Server{Server: srv, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		srv.Serve() // fs.OnUnmount is the last it calls
	}()
	return s, nil
}

// Ended is closed when the mount has ended and fs.OnUnmount has returned.
func (s *Server) Ended() <-chan struct{} { return s.ended }
