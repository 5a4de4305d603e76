package mountapi

import (
	"strings"

	"golang.org/x/sys/unix"
)

// maxKernelLines limits how many lines of the kernel's log an error takes along.
const maxKernelLines = 8

// KernelLog runs call and returns what overlayfs, EROFS and the loop driver wrote
// into the kernel's log meanwhile, oldest first. Other mounts at the same moment may
// be among it. Without permission to read the log it just runs call.
func KernelLog(call func()) []string {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		call()
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // only read
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		call()
		return nil
	}
	call()
	var lines []string
	buf := make([]byte, 8192)
	for len(lines) < maxKernelLines {
		n, err := unix.Read(fd, buf)
		if n <= 0 || err != nil {
			return lines
		}
		if line, ok := kernelLine(string(buf[:n])); ok {
			lines = append(lines, line)
		}
	}
	return lines
}

// kernelLine takes the message out of a record of /dev/kmsg, "6,339,5140900,-;text"
// followed by lines of the form " KEY=value" (Documentation/ABI/testing/dev-kmsg).
func kernelLine(record string) (string, bool) {
	_, text, ok := strings.Cut(record, ";")
	if !ok {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	if strings.Contains(text, ": mounted with root inode") {
		return "", false // EROFS says so of every mount that succeeds
	}
	for _, prefix := range []string{"overlayfs:", "erofs", "loop"} {
		if strings.HasPrefix(text, prefix) {
			return text, true
		}
	}
	return "", false
}
