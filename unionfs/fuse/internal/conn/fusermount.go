package conn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fusermount is the setuid program of libfuse that mounts for ordinary users.
const fusermount = "fusermount3"

// Fusermount mounts at the directory target by fusermount3 and returns the device,
// which the caller closes. An error that wraps errors.ErrUnsupported says that there
// is no such program.
func Fusermount(ctx context.Context, target string, opts MountOptions) (_ *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer func() { err = errors.Join(err, ours.Close()) }()
	options := []string{"default_permissions", "fsname=" + escapeOption(opts.source()), "subtype=" + Subtype}
	if opts.AllowOther {
		options = append(options, "allow_other")
	}
	if opts.ReadOnly {
		options = append(options, "ro")
	}
	// The program gives the device as a control message on a socket whose number is in
	// its environment (util/fusermount.c of libfuse).
	run := func(ctx context.Context) error {
		return runFusermount(ctx, []*os.File{theirs}, "-o", strings.Join(options, ","), "--", target)
	}
	if err := errors.Join(run(ctx), theirs.Close()); err != nil {
		return nil, err
	}
	dev, err := receiveFile(int(ours.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("receive FUSE device from %s: %w", fusermount, err),
			FusermountUnmount(context.WithoutCancel(ctx), target, true))
	}
	return dev, nil
}

// FusermountUnmount unmounts target by fusermount3; lazy takes a busy mount out of the
// name space. A busy one fails with an error that wraps EBUSY.
func FusermountUnmount(ctx context.Context, target string, lazy bool) error {
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	return runFusermount(ctx, nil, append(args, "--", target)...)
}

func runFusermount(ctx context.Context, files []*os.File, args ...string) error {
	path, err := exec.LookPath(fusermount)
	if err != nil {
		return fmt.Errorf("find %s: %w; install it (package fuse3): %w", fusermount, err, errors.ErrUnsupported)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"_FUSE_COMMFD=3", "LC_ALL=C"}
	cmd.ExtraFiles = files
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		err = fmt.Errorf("%s: %s: %w", fusermount, text, err)
		// The program tells errors by their text alone.
		for _, errno := range []syscall.Errno{unix.EBUSY, unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOENT} {
			if strings.Contains(text, strings.ToLower(errnoText(errno))) || strings.Contains(text, errnoText(errno)) {
				return fmt.Errorf("%w: %w", err, errno)
			}
		}
		return err
	}
	return nil
}

// errnoText returns the text of strerror in the C locale.
func errnoText(e syscall.Errno) string {
	text := e.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// receiveFile receives one file descriptor from a socket, blocking.
func receiveFile(socket int) (*os.File, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), device), nil
		}
	}
	return nil, errors.New("no descriptor in the message")
}

// escapeOption protects what separates mount options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}
