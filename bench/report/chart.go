package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Measures of charts in pixels of a page about 900 wide.
const (
	chartWidth = 900
	labelWidth = 250
	wideLabel  = 330 // of names of lines and works together
	valueWidth = 110
	rowHeight  = 22
)

type svg struct{ strings.Builder }

func (s *svg) add(format string, args ...any) { fmt.Fprintf(s, format, args...) }

func (s *svg) text(x, y float64, anchor, class, text string) {
	s.add(`<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, template.HTMLEscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	s.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

func (s *svg) finish(height float64, title string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %.0f" role="img"><title>%s</title>%s</svg>`,
		chartWidth, height, template.HTMLEscapeString(title), s.String()))
}

// scale maps values to x. It is logarithmic where the largest is far from the smallest.
type scale struct {
	low, high   float64
	left, width float64
	log         bool
}

func (s scale) x(v float64) float64 {
	if s.log {
		return s.left + s.width*(math.Log(max(v, s.low))-math.Log(s.low))/(math.Log(s.high)-math.Log(s.low))
	}
	return s.left + s.width*v/s.high
}

// chart draws a bar for each entry: the median, and the spread as a thin line.
func (w *Work) chart() template.HTML {
	var entries []*Entry
	sc := scale{low: math.Inf(1), left: labelWidth, width: chartWidth - labelWidth - valueWidth}
	for _, e := range w.Entries {
		if len(e.Samples) == 0 {
			continue
		}
		entries = append(entries, e)
		_, high := Spread(e.Values(w.Judge.Of))
		sc.low, sc.high = min(sc.low, e.Median(w.Judge.Of)), max(sc.high, high)
	}
	if len(entries) == 0 || sc.high <= 0 || sc.low <= 0 {
		return ""
	}
	if sc.high/sc.low > 20 {
		sc.log, sc.low = true, sc.low/2
	}
	var s svg
	for i, e := range entries {
		y := float64(i*rowHeight + 4)
		v := e.Median(w.Judge.Of)
		low, high := Spread(e.Values(w.Judge.Of))
		s.text(labelWidth-8, y+13, "end", "label", e.Name)
		s.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" class="%s"/>`, sc.left, y+1, max(1, sc.x(v)-sc.left), rowHeight-6, e.Kind)
		s.line(sc.x(low), y+9, sc.x(high), y+9, "spread")
		s.text(max(sc.x(v), sc.x(high))+6, y+13, "start", "value", Seconds(v))
	}
	note := string(w.Judge) + " time"
	if sc.log {
		note += ", logarithmic scale"
	}
	height := float64(len(entries)*rowHeight + 20)
	s.text(labelWidth, height-4, "start", "axis", note)
	return s.finish(height, w.Name)
}

// overviewChart draws a row for each work and in it a point for each contender, where its
// cost stands in that of layerfs.
func (r *Report) overviewChart() template.HTML {
	works := r.compared()
	sc := scale{low: 0.1, high: 10, left: wideLabel, width: chartWidth - wideLabel - 20, log: true}
	for _, w := range works {
		for _, e := range w.Entries {
			if v := Against(e, w.First(Layerfs), w.Judge.Of); v > 0 {
				sc.low, sc.high = min(sc.low, v), max(sc.high, v)
			}
		}
	}
	sc.low, sc.high = math.Pow(10, math.Floor(math.Log10(sc.low))), math.Pow(10, math.Ceil(math.Log10(sc.high)))
	var s svg
	height := float64(len(works)*16 + 44)
	for at := sc.low; at <= sc.high*1.01; at *= 10 {
		class := "grid"
		if math.Abs(at-1) < 1e-9 {
			class = "one"
		}
		s.line(sc.x(at), 18, sc.x(at), height-22, class)
		s.text(sc.x(at), 12, "middle", "axis", fmt.Sprintf("%g×", math.Round(at*1e6)/1e6))
	}
	for i, w := range works {
		y := float64(i*16 + 28)
		s.text(wideLabel-8, y+4, "end", "small", w.label)
		s.line(sc.left, y, sc.left+sc.width, y, "grid")
		for _, e := range w.Entries {
			v := Against(e, w.First(Layerfs), w.Judge.Of)
			if v <= 0 || e.Kind == Other {
				continue
			}
			s.add(`<circle cx="%.1f" cy="%.1f" r="4.5" class="%s"><title>%s: %s of layerfs in %q</title></circle>`,
				sc.x(v), y, e.Kind, template.HTMLEscapeString(e.Name), digits(v), template.HTMLEscapeString(w.Name))
		}
	}
	s.text(sc.left, height-4, "start", "axis", "cost in that of layerfs, logarithmic: right of 1× layerfs is ahead")
	return s.finish(height, "all works")
}
