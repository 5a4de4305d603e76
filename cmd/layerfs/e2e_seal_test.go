package main

import (
	"context"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever starts processes in containers is executed from a read-only mount, so that a
// script with the interpreter /proc/self/exe does not give a container this program.
func TestLauncherIsSealed(t *testing.T) {
	s := newStore(t)
	image := s.tiny()
	sealed := func(what string, pid int) {
		t.Helper()
		var where unix.Statfs_t
		if err := unix.Statfs("/proc/"+strconv.Itoa(pid)+"/exe", &where); err != nil || where.Flags&unix.ST_RDONLY == 0 {
			t.Errorf("the program of %s can be written to (%v)", what, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The init is this program, which finds no libraries in a container.
	alone, err := static(self)
	if err != nil {
		t.Fatal(err)
	}
	s.ok("run", "-d", "--init="+strconv.FormatBool(alone), "-e", asProgram+"=1", "--name", "held", image, "sleep", "1000")
	first, monitor := s.pids("held")
	sealed("the monitor", monitor)
	if alone {
		sealed("the init", first)
	}
	for _, args := range [][]string{{"exec", "held", "sh", "-c", "echo up; read x"}, {"run", "--rm", image, "sh", "-c", "echo up; read x"}} {
		args = append([]string{args[0], "-i"}, args[1:]...)
		cmd := s.command(context.WithoutCancel(t.Context()), args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Error(err)
		}
		sealed(args[0], cmd.Process.Pid)
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
	}
}
