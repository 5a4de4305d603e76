package report

import (
	"fmt"
	"math"
	"strconv"
)

// Columns are the headings of a work's table.
func Columns() []string {
	return []string{"", "turns", "wall", "spread", "of layerfs", "of limit", "CPU", "of layerfs", "of limit", "then flush", "peak MB", "written MB", "disk MB", "calls"}
}

// Row is one entry as text, under the headings of [Columns].
func (w *Work) Row(e *Entry) []string {
	name := e.Name
	if e.Version != "" {
		name += " " + e.Version
	}
	if len(e.Samples) == 0 {
		return []string{name, "absent: " + e.Absent}
	}
	walls := e.Values(Wall.Of)
	low, high := Spread(walls)
	row := []string{
		name, strconv.Itoa(len(walls)),
		Seconds(Median(walls)), Seconds(low) + " – " + Seconds(high), times(Against(e, w.First(Layerfs), Wall.Of)), times(Against(e, w.First(Limit), Wall.Of)),
		Seconds(e.Median(CPU.Of)), times(Against(e, w.First(Layerfs), CPU.Of)), times(Against(e, w.First(Limit), CPU.Of)),
		Seconds(e.Median(func(s Sample) float64 { return s.Flush })),
		mega(e.Median(func(s Sample) float64 { return float64(s.RSS) })),
		mega(e.Median(func(s Sample) float64 { return float64(s.Written) })),
		mega(e.Median(func(s Sample) float64 { return float64(s.Disk) })),
	}
	if e.Calls > 0 {
		return append(row, strconv.FormatInt(e.Calls, 10))
	}
	return append(row, "")
}

// Seconds writes a duration with three digits and the unit that fits.
func Seconds(s float64) string {
	if math.Abs(s) < 1 {
		return digits(s*1000) + " ms"
	}
	return digits(s) + " s"
}

func digits(v float64) string {
	switch a := math.Abs(v); {
	case a < 9.995:
		return fmt.Sprintf("%.2f", v)
	case a < 99.95:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

func times(v float64) string {
	if v == 0 {
		return ""
	}
	return digits(v)
}

func mega(v float64) string {
	if v == 0 {
		return ""
	}
	return digits(v / 1e6)
}
