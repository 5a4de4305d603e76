package container

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// RestartMode says when a container that ended is started again, a closed set.
type RestartMode string

// The modes, with Docker's names.
const (
	RestartNo            RestartMode = "no"
	RestartOnFailure     RestartMode = "on-failure"
	RestartAlways        RestartMode = "always"
	RestartUnlessStopped RestartMode = "unless-stopped"
)

// RestartPolicy says when and how often a container is started again.
type RestartPolicy struct {
	Mode RestartMode `json:"mode"`
	Most int         `json:"most,omitempty"` // of on-failure: starts after the first; 0 is any number
}

// ParseRestartPolicy reads "no", "always", "unless-stopped" or "on-failure[:N]"; "" is no.
func ParseRestartPolicy(s string) (RestartPolicy, error) {
	mode, most, limited := strings.Cut(s, ":")
	p := RestartPolicy{Mode: RestartMode(mode)}
	if p.Mode == "" {
		p.Mode = RestartNo
	}
	if limited {
		n, err := strconv.ParseUint(most, 10, 31)
		if err != nil || p.Mode != RestartOnFailure {
			return p, fmt.Errorf("restart policy %q: only on-failure takes a number, of 0 or more: %w", s, fs.ErrInvalid)
		}
		p.Most = int(n)
	}
	return p, p.check()
}

func (p RestartPolicy) check() error {
	switch p.Mode {
	case RestartNo, RestartOnFailure, RestartAlways, RestartUnlessStopped:
		return nil
	}
	return fmt.Errorf("restart policy %q: want no, on-failure[:N], always or unless-stopped: %w", p.Mode, fs.ErrInvalid)
}

// String is the form that ParseRestartPolicy reads.
func (p RestartPolicy) String() string {
	if p.Most > 0 {
		return string(p.Mode) + ":" + strconv.Itoa(p.Most)
	}
	return string(p.Mode)
}

// Again tells whether a container that ended with this code, having been started again
// that many times before, is to be started again. One that somebody stopped is not.
func (p RestartPolicy) Again(code, restarts int, stopped bool) bool {
	if stopped {
		return false
	}
	switch p.Mode {
	case RestartAlways, RestartUnlessStopped:
		return true
	case RestartOnFailure:
		return code != 0 && (p.Most == 0 || restarts < p.Most)
	case RestartNo:
	}
	return false
}

// Docker's delays (restartmanager): the wait doubles with each restart up to a minute,
// and begins anew after a run that lasted.
const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Minute
	lasted     = 10 * time.Second
)

// Delay is how long to wait before the next start, given what was waited before the last
// one (0: nothing) and how long the container ran.
func (p RestartPolicy) Delay(before, ran time.Duration) time.Duration {
	if before == 0 || ran >= lasted {
		return firstDelay
	}
	return min(2*before, maxDelay)
}
