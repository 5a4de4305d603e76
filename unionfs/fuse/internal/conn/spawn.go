package conn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The descriptors of a server process.
const (
	deviceFD = 3
	configFD = 4
	readyFD  = 5
)

// Limits of what passes between the two processes.
const (
	maxConfig = 16 << 20 // bytes of a configuration: 500 layers with paths of 4 KiB, and much more
	maxReport = 64 << 10 // bytes of a server's report
)

const ready = "ready\n"

// startTime is how long a server may take to open its layers, which includes waiting
// for the last server of the same upper to flush that.
const startTime = time.Minute

// Program is how a process that serves is started.
type Program struct {
	Path string   // "" is this very program, even when its file has been replaced since
	Args []string // that make it call Inherit, without the program's name
	Log  string   // a file to which the server's standard error is appended; "" drops it
}

// Spawn starts a process that serves the mount behind dev, and returns when it does.
// config is handed over as JSON. minor is the mount's, as Minor tells it: it becomes
// the last argument, by which Unmount finds the process. The process is a session of
// its own with "/" as its working directory, of the environment just what steers Go's
// runtime, and nothing of ours open but the device. The caller closes dev whatever the result is.
func Spawn(ctx context.Context, p Program, dev *os.File, minor string, config any) (err error) {
	data, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode configuration of FUSE server: %w", err)
	}
	configFile, err := memory(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, configFile.Close()) }()
	report, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { err = errors.Join(err, report.Close()) }()

	path := p.Path
	if path == "" {
		path = "/proc/self/exe"
	}
	// Not CommandContext: the server outlives ctx.
	cmd := &exec.Cmd{
		Path:        path,
		Args:        append(append([]string{"layerfs"}, p.Args...), minor),
		Dir:         "/",
		Env:         environment(),
		ExtraFiles:  []*os.File{dev, configFile, theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if p.Log != "" {
		log, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return errors.Join(fmt.Errorf("open log of FUSE server: %w", err), theirs.Close())
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		cmd.Stderr = log
	}
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return fmt.Errorf("start FUSE server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ends is for nobody who started it
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() }) // it may have ended
	said, err := io.ReadAll(io.LimitReader(report, maxReport))
	if !stop() && ctx.Err() != nil {
		<-exited
		return fmt.Errorf("start FUSE server: %w", ctx.Err())
	}
	if err == nil && string(said) != ready {
		text := strings.TrimSpace(string(said))
		if text == "" {
			text = "it ended without a report"
		}
		err = errors.New(text)
	}
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended
		<-exited
		return fmt.Errorf("start FUSE server: %w", err)
	}
	return nil
}

// environment is what a server gets of this process's: the settings of Go's runtime, for
// who looks into it, and of the race detector, which otherwise sleeps for a second at
// the end of each process.
func environment() []string {
	env := []string{}
	for _, name := range []string{"GODEBUG", "GORACE", "GOTRACEBACK"} {
		if value, ok := os.LookupEnv(name); ok { //nolint:forbidigo // handed on, not heeded
			env = append(env, name+"="+value)
		}
	}
	return env
}

// memory returns a file in memory that holds data, to be read from its start.
func memory(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("layerfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "configuration")
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("write configuration: %w", err), f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("rewind configuration: %w", err), f.Close())
	}
	return f, nil
}

// Inherited is what Spawn gave to this process.
type Inherited struct {
	dev    *os.File
	report *os.File
}

// Inherit takes over what Spawn has handed to this process and decodes config. An
// error that wraps EBADF says that this process was started in another way.
func Inherit(config any) (*Inherited, error) {
	for fd := deviceFD; fd <= readyFD; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("take over descriptor %d: %w: this command is run by other commands only", fd, err)
		}
	}
	unix.Umask(0) // modes come from requests, which have been masked already
	in := &Inherited{dev: os.NewFile(deviceFD, device), report: os.NewFile(readyFD, "report")}
	f := os.NewFile(configFD, "configuration")
	err := json.NewDecoder(io.LimitReader(f, maxConfig)).Decode(config)
	if err = errors.Join(err, f.Close()); err != nil {
		err = fmt.Errorf("read configuration: %w", err)
		return nil, in.Fail(err)
	}
	return in, nil
}

// Fail tells the parent why there will be no server, and returns err.
func (in *Inherited) Fail(err error) error {
	_, werr := io.WriteString(in.report, err.Error())
	return errors.Join(err, werr, in.report.Close(), in.dev.Close())
}

// Serve serves fs, tells the parent that all is well, and returns when the mount has
// ended.
func (in *Inherited) Serve(fs fuse.RawFileSystem, opts fuse.MountOptions) error {
	s, err := Start(in.dev, fs, opts)
	if err != nil {
		_, werr := io.WriteString(in.report, err.Error())
		return errors.Join(err, werr, in.report.Close())
	}
	// A parent that has died meanwhile is no reason to end: what it mounted may be in use.
	_, _ = io.WriteString(in.report, ready)
	err = in.report.Close()
	<-s.Ended()
	return err
}
