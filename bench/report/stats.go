package report

import (
	"slices"
)

// Of returns one measure of a sample in seconds.
func (m Measure) Of(s Sample) float64 {
	if m == CPU {
		return s.CPU
	}
	return s.Wall
}

// Values returns one number of each sample.
func (e *Entry) Values(of func(Sample) float64) []float64 {
	out := make([]float64, len(e.Samples))
	for i, s := range e.Samples {
		out[i] = of(s)
	}
	return out
}

// Median returns the median of one number of the samples, 0 without samples.
func (e *Entry) Median(of func(Sample) float64) float64 { return Median(e.Values(of)) }

// Median returns the middle of the values, 0 when there are none.
func Median(v []float64) float64 { return quantile(v, 0.5) }

// quantile interpolates between the two nearest values.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (v[i+1]-v[i])*(at-float64(i))
}

// Spread returns the first and third quartile, of few samples the least and the greatest.
func Spread(v []float64) (low, high float64) {
	if len(v) == 0 {
		return 0, 0
	}
	if len(v) < 8 {
		return slices.Min(v), slices.Max(v)
	}
	return quantile(v, 0.25), quantile(v, 0.75)
}

// Against returns a/b: the median of the ratios within the rounds, whose turns were next
// to each other, and 0 where there is nothing to compare.
func Against(a, b *Entry, of func(Sample) float64) float64 {
	if a == nil || b == nil {
		return 0
	}
	return Median(Rounds(a, b, of))
}

// Rounds returns a/b for each round that both have.
func Rounds(a, b *Entry, of func(Sample) float64) []float64 {
	va, vb := a.Values(of), b.Values(of)
	var out []float64
	for i := range min(len(va), len(vb)) {
		if vb[i] > 0 {
			out = append(out, va[i]/vb[i])
		}
	}
	return out
}

// First returns the first entry of a kind that has samples, or nil.
func (w *Work) First(k Kind) *Entry {
	for _, e := range w.Entries {
		if e.Kind == k && len(e.Samples) > 0 {
			return e
		}
	}
	return nil
}

// BestPeer returns the peer with the smallest median, or nil.
func (w *Work) BestPeer(by Measure) *Entry {
	var best *Entry
	for _, e := range w.Entries {
		if e.Kind == Peer && len(e.Samples) > 0 && (best == nil || e.Median(by.Of) < best.Median(by.Of)) {
			best = e
		}
	}
	return best
}

// Verdict is how layerfs stands in a work by one measure.
type Verdict struct {
	By                   Measure
	Layerfs, Best, Limit *Entry  // nil where there is none
	ToPeer               float64 // the best peer's cost in that of layerfs: above 1 layerfs is ahead
	ToLimit              float64 // the cost of layerfs in that of the limit
}

// Verdict compares layerfs with the best peer and the limit.
func (w *Work) Verdict(by Measure) Verdict {
	v := Verdict{By: by, Layerfs: w.First(Layerfs), Best: w.BestPeer(by), Limit: w.First(Limit)}
	v.ToPeer = Against(v.Best, v.Layerfs, by.Of)
	v.ToLimit = Against(v.Layerfs, v.Limit, by.Of)
	return v
}

// Behind reports whether a peer needs less than layerfs.
func (v Verdict) Behind() bool { return v.ToPeer > 0 && v.ToPeer < 1 }
