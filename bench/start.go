package main

import "context"

// startLine starts the command, against a Go program that does nothing.
func startLine(ctx context.Context, b *bench) error {
	r, err := b.inTurns(ctx, max(100, b.rounds),
		command("layerfs version", b.tool("cmd/layerfs", "version")...),
		command("empty static Go program", b.tool("bench/empty")...))
	if err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		of   func(sample) float64
	}{{"wall", wall}, {"cpu", cpu}} {
		v := median(values(r[0], m.of)) / median(values(r[1], m.of))
		b.report.ratio(ratio{Line: b.line, Name: "median " + m.name + " of layerfs version / empty program", Value: v, Low: v, High: v, Target: 2})
	}
	return nil
}
