package mountapi

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxLoopTries limits how often a free loop device is asked for: between the answer
// and its use another process may take it.
const maxLoopTries = 64

// AttachLoop makes file readable as a block device and returns the opened device,
// whose Name is its path. The device is read-only, is given up by itself with its last
// user (LO_FLAGS_AUTOCLEAR), so that the caller closes the result once the device is
// mounted, and reads around the page cache of the file where the file system allows.
func AttachLoop(file *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	defer func() { _ = control.Close() }() // nothing is written to it

	direct := uint32(unix.LO_FLAGS_DIRECT_IO)
	for range maxLoopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, &Error{Op: "ioctl LOOP_CTL_GET_FREE", Object: control.Name(), Err: err}
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd())}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | direct
		copy(config.Info.File_name[:len(config.Info.File_name)-1], file.Name())
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		err = errors.Join(&Error{Op: "ioctl LOOP_CONFIGURE", Object: path, Err: err}, device.Close())
		switch {
		case errors.Is(err, unix.EBUSY):
		case errors.Is(err, unix.EINVAL) && direct != 0:
			direct = 0
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("find a free loop device: lost the race for one %d times: %w", maxLoopTries, unix.EBUSY)
}
