package external

import (
	"bytes"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// orphans ends the processes of a container that a runtime left to this process and
// nobody waits for, such as those of an exec that failed half-way: the kernel lets the
// first process of a pid namespace end only when all others are waited for.
type orphans struct {
	mu    sync.Mutex // held while a runtime may leave a process that is not known yet
	known map[int]bool
	stop  func() // nil unless started
}

// start begins to look after each end of a child.
func (o *orphans) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stop != nil {
		return
	}
	ended, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(ended, syscall.SIGCHLD)
	o.stop = func() {
		signal.Stop(ended)
		close(done)
	}
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ended:
				o.reap()
			}
		}
	}()
}

func (o *orphans) end() {
	o.mu.Lock()
	stop := o.stop
	o.stop = nil
	o.mu.Unlock()
	if stop != nil {
		stop()
		o.reap()
	}
}

// adopt makes what a runtime leaves known before anybody looks for orphans.
func (o *orphans) adopt(launch func() (*Process, error)) (*Process, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p, err := launch()
	if err == nil {
		if o.known == nil {
			o.known = map[int]bool{}
		}
		o.known[p.pid] = true
		p.waited = o.forget
	}
	return p, err
}

func (o *orphans) forget(pid int) {
	o.mu.Lock()
	delete(o.known, pid)
	o.mu.Unlock()
	o.reap() // another may have got the number
}

// reap waits for the children that have ended, belong to another pid namespace and are
// not known. Other packages' children are of this one.
func (o *orphans) reap() {
	o.mu.Lock()
	defer o.mu.Unlock()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		list, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for word := range bytes.FieldsSeq(list) {
			pid, err := strconv.Atoi(string(word))
			if err != nil || o.known[pid] || !elsewhere(pid) {
				continue
			}
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it is one, or it is asked again at its end
		}
	}
}

// elsewhere tells whether a process has a number in a pid namespace below the one that
// /proc shows, too (proc_pid_status(5)).
func elsewhere(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(status) {
		if numbers, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			return len(bytes.Fields(numbers)) > 1
		}
	}
	return false
}
