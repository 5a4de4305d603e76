package main

import "context"

// againLine loads an image that the store has, against hashing its archive.
func againLine(ctx context.Context, b *bench) error {
	all, err := forms(ctx, "layered")
	if err != nil {
		return err
	}
	for _, f := range all {
		if err := b.fresh(ctx); err != nil {
			return err
		}
		load := b.lfs("load", "-q", "-i", f.input)
		if _, err := run(ctx, load); err != nil {
			return err
		}
		hashed := append([]string{"sha256sum"}, f.layers...)
		r, err := b.inTurns(ctx, f.name, 5, command(f.name+": layerfs load again", load...), command(f.name+": sha256sum", hashed...))
		if err != nil {
			return err
		}
		b.report.compare(f.name+": wall of loading again / sha256sum", r[0], r[1], wall, 1)
	}
	return nil
}
