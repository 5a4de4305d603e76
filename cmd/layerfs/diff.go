package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
	"github.com/spf13/cobra"
)

// changeRow is what is printed of one change.
type changeRow struct {
	Kind    string `json:"kind"` // add, modify, delete
	Path    string `json:"path"`
	Raw     []byte `json:"rawPath,omitempty"` // when it is not UTF-8
	OldSize *int64 `json:"oldSize,omitempty"`
	NewSize *int64 `json:"newSize,omitempty"`
}

func newDiffCmd(a *app) *cobra.Command {
	var o outputFlags
	cmd := &cobra.Command{
		Use:   "diff SNAPSHOT | IMAGE|SNAPSHOT IMAGE|SNAPSHOT",
		Short: "List what was changed in a snapshot, or between two images or snapshots",
		Long: `Diff prints a line for each change, as "docker diff" does: A for what was added, C for
what was changed, D for what was deleted. Contents are compared by digest and not read.
Empty files and directories that "layerfs run" made to mount on, such as /etc/hosts, are
left out.
` + quoting + `
JSON has the bytes of a path that is not UTF-8 as rawPath, in base64.`,
		Example: `  layerfs diff work
  layerfs diff --format '{{.Kind}} {{.Path}}' debian:12 debian:mine`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeImagesAndSnapshots(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := a.changes(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.printChanges(o, changes)
		},
	}
	o.addFormat(cmd, "", formatTable, `"table", "json" (an object a line), or a Go template applied to each change`)
	return cmd
}

func (a *app) changes(ctx context.Context, args []string) ([]tree.Change, error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	if len(args) == 1 {
		rec, err := a.snapshotNamed(ctx, args[0])
		if err != nil {
			return nil, err
		}
		if rec == nil {
			if _, err := a.image(ctx, args[0]); err == nil {
				return nil, usageError{fmt.Errorf("%s is an image; give what to compare it with", args[0])}
			}
			_, err := a.statSnapshot(ctx, args[0])
			return nil, fmt.Errorf("%w; to compare two images, give both", err)
		}
		if err := a.enter(); err != nil {
			return nil, err
		}
		made, err := a.mountPoints(ctx, rec)
		if err != nil {
			return nil, err
		}
		return s.Changes(ctx, rec.Key, made...)
	}
	layers := make([][]snapshot.DiffID, 2)
	for i, word := range args {
		rec, err := a.snapshotNamed(ctx, word)
		if err != nil {
			return nil, err
		}
		if rec != nil {
			return a.treeChanges(ctx, args)
		}
		img, err := a.imageIfNoSnapshot(ctx, word)
		if err != nil {
			return nil, err
		}
		layers[i] = img.layers
	}
	return s.DiffStacks(ctx, layers[0], layers[1])
}

// treeChanges compares two words of which at least one is a snapshot.
func (a *app) treeChanges(ctx context.Context, args []string) (_ []tree.Change, err error) {
	var roots [2]*tree.Node
	for i, word := range args {
		r, err := a.reader(ctx, word)
		if err != nil {
			return nil, err
		}
		root, err := r.HashedTree(ctx)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
		roots[i] = root
	}
	return snapshot.Diff(roots[0], roots[1]), nil
}

func (a *app) printChanges(o outputFlags, changes []tree.Change) error {
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	row := func(c tree.Change) changeRow {
		r := changeRow{Kind: c.Kind.String(), Path: c.Path.Abs(), Raw: raw(c.Path.Abs())}
		if c.Old != nil {
			r.OldSize = &c.Old.Size
		}
		if c.New != nil {
			r.NewSize = &c.New.Size
		}
		return r
	}
	print := printEach(w, o, row, func(w io.Writer, c tree.Change) error {
		_, err := fmt.Fprintf(w, "%s %s\n", c.Kind.Letter(), printable(c.Path.Abs()))
		return err
	})
	var err error
	for _, c := range changes {
		if err = print(c); err != nil {
			break
		}
	}
	return errors.Join(err, w.Flush())
}
