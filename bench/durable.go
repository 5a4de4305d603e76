package main

import "context"

// durableLine imports the layers with and without flushing. Without it the kernel still
// has everything to write when the process ends.
func durableLine(ctx context.Context, b *bench) error {
	all, err := forms(ctx, "layered")
	if err != nil {
		return err
	}
	for _, f := range all[:2] {
		with := func(name string, flags ...string) contender {
			return contender{name: f.name + ": " + name, prepare: b.fresh, args: func() []string {
				return b.tool("bench/ingest", append(append(flags, b.disk.path("store")), f.layers...)...)
			}}
		}
		r, err := b.inTurns(ctx, f.name, 5, with("durable"), with("not flushed", "-nosync"))
		if err != nil {
			return err
		}
		b.report.compare(f.name+": cpu of durable / not flushed", r[0], r[1], cpu, 0)
		b.report.compare(f.name+": wall of durable / not flushed", r[0], r[1], wall, 0)
	}
	return nil
}
