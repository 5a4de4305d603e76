package network

import (
	"context"
	"errors"
	"strconv"
	"testing"
)

// BenchmarkAttach gives a container its network; taking it back is not counted. The
// kernel works at the end of a namespace in the background, which slows the beginning of
// the next ones down.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct {
		name string
		r    Request
	}{
		{"none", Request{Network: Choice{Mode: ModeNone}}},
		{"bridge", Request{}},
		{"bridge and port", Request{Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}}},
		{"names", Request{Name: "web", Network: joined("app")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			w.create(b, Spec{Name: "app"})
			w.attach(b, Request{ID: "first", Network: joined("bridge", "app")}) // makes the bridges
			i := 0
			for b.Loop() {
				i++
				c.r.ID = "c" + strconv.Itoa(i)
				a, err := w.Attach(context.Background(), c.r)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := errors.Join(a.Close(), w.Detach(context.Background(), c.r.ID)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkDetach takes back what a container with a published port has. To withdraw a
// port waits for the kernel to be rid of it, which no reader of the rules may be using.
func BenchmarkDetach(b *testing.B) {
	w := newWorld(b)
	w.attach(b, Request{ID: "first"})
	r := Request{ID: "a", Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}}
	for b.Loop() {
		b.StopTimer()
		a, err := w.Attach(context.Background(), r)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := errors.Join(a.Close(), w.Detach(context.Background(), r.ID)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup answers a question for a name among a thousand members.
func BenchmarkLookup(b *testing.B) {
	w := newWorld(b)
	nw := w.create(b, Spec{Name: "app"})
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = "c" + strconv.Itoa(i)
		m, err := w.lease(nw, Endpoint{}, ids[i])
		if err != nil {
			b.Fatal(err)
		}
		m.Names = []string{ids[i]}
		if err := w.writeNames(m, ids[i]); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if found, ok := w.addresses([]string{"app"}, "c500"); !ok || len(found) != 1 {
			b.Fatal(found, ok)
		}
	}
}
