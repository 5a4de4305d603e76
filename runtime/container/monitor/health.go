package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
)

// Docker's defaults (healthcheck.go of its daemon).
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
	healthKept          = 5 // checks
)

// maxHealthOutput is how much of a check's output is kept, in bytes.
const maxHealthOutput = 4096

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// checkHealth checks a container until the context ends.
func (m *monitor) checkHealth(ctx context.Context, rec *container.Record, started *Started) {
	h := rec.Health
	began := time.Now()
	st := container.HealthState{Status: container.HealthStarting}
	for {
		starting := st.Status == container.HealthStarting && time.Since(began) < h.StartPeriod
		wait := or(h.Interval, healthInterval)
		if starting {
			wait = or(h.StartInterval, healthStartInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		check := m.check(ctx, h, started)
		if ctx.Err() != nil {
			return
		}
		before := st.Status
		st = nextHealth(st, h, check, starting)
		_, err := m.Store.Change(context.WithoutCancel(ctx), m.ID, func(s *container.State) error {
			state := st
			s.Health = &state
			return nil
		})
		if err != nil {
			m.Logger.Error("health is not written down", "error", err)
		}
		if before != st.Status {
			m.Store.Emit("health_status: "+string(st.Status), rec, nil)
		}
	}
}

func (m *monitor) check(ctx context.Context, h *container.Health, started *Started) container.HealthCheck {
	cctx, cancel := context.WithTimeout(ctx, or(h.Timeout, healthTimeout))
	defer cancel()
	c := container.HealthCheck{Start: time.Now().UTC()}
	var err error
	c.ExitCode, c.Output, err = started.Check(cctx, h.Test)
	c.End = time.Now().UTC()
	switch {
	case errors.Is(cctx.Err(), context.DeadlineExceeded):
		c.ExitCode, c.Output = -1, "the check did not end in time"
	case err != nil:
		c.ExitCode, c.Output = -1, err.Error()
	}
	c.Output = c.Output[:min(len(c.Output), maxHealthOutput)]
	return c
}

// nextHealth is the health after one more check. A failure while the container starts
// does not count; a success ends the start.
func nextHealth(st container.HealthState, h *container.Health, c container.HealthCheck, starting bool) container.HealthState {
	st.Log = append(st.Log[:len(st.Log):len(st.Log)], c)
	if len(st.Log) > healthKept {
		st.Log = st.Log[len(st.Log)-healthKept:]
	}
	switch {
	case c.ExitCode == 0:
		st.Status, st.Failures = container.Healthy, 0
	case starting:
	default:
		st.Failures++
		if st.Failures >= or(h.Retries, healthRetries) {
			st.Status = container.Unhealthy
		}
	}
	return st
}
