package monitor

import (
	"testing"

	"github.com/layerfs/layerfs/runtime/container"
)

func TestNextHealth(t *testing.T) {
	h := &container.Health{Retries: 2}
	st := container.HealthState{Status: container.HealthStarting}
	for i, c := range []struct {
		code     int
		starting bool
		want     container.HealthStatus
		failures int
	}{
		{1, true, container.HealthStarting, 0}, {1, false, container.HealthStarting, 1}, {1, false, container.Unhealthy, 2},
		{0, false, container.Healthy, 0}, {-1, false, container.Healthy, 1}, {0, false, container.Healthy, 0},
	} {
		st = nextHealth(st, h, container.HealthCheck{ExitCode: c.code}, c.starting)
		if st.Status != c.want || st.Failures != c.failures || len(st.Log) != min(i+1, healthKept) {
			t.Errorf("after check %d: %+v, want %s and %d failures", i, st, c.want, c.failures)
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(byte(kindHello), []byte(`{"stdin":true,"rows":3}`))
	f.Fuzz(func(_ *testing.T, kind byte, data []byte) {
		_, _ = parseHello(kind, data) // it may refuse, and does not panic
	})
}
