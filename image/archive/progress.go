package archive

import (
	"context"
	"io"
)

// Progress tells how much of one member was read or written.
type Progress struct {
	Name  string // of the member
	Done  int64  // bytes
	Total int64  // bytes
}

// progressStep is how many bytes pass between two reports.
const progressStep = 1 << 20

// meter reports progress, and ends reading when the context ends.
type meter struct{ report func(Progress) }

func (m *meter) reader(ctx context.Context, name string, total int64, r io.Reader) io.Reader {
	return &meteredReader{ended: ctx.Err, r: r, meter: m, p: Progress{Name: name, Total: total}}
}

type meteredReader struct {
	ended    func() error // the error of the context, once it has one
	r        io.Reader
	meter    *meter
	p        Progress
	reported int64
	complete bool
}

func (r *meteredReader) Read(p []byte) (int, error) {
	if err := r.ended(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	r.p.Done += int64(n)
	if r.meter.report != nil && !r.complete && (r.p.Done-r.reported >= progressStep || err == io.EOF) {
		r.reported = r.p.Done
		r.complete = err == io.EOF
		r.meter.report(r.p)
	}
	return n, err
}

// meteredWriter is the same for writing.
type meteredWriter struct {
	ended    func() error // as above
	w        io.Writer
	meter    *meter
	p        Progress
	reported int64
}

func (w *meteredWriter) Write(p []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, err
	}
	n, err := w.w.Write(p)
	w.p.Done += int64(n)
	if w.p.Done-w.reported >= progressStep {
		w.report()
	}
	return n, err
}

func (w *meteredWriter) report() {
	w.reported = w.p.Done
	if w.meter.report != nil {
		w.meter.report(w.p)
	}
}
