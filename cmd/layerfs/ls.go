package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
	"github.com/spf13/cobra"
)

// entryRow is what is printed of one file.
type entryRow struct {
	Path   string    `json:"path"`
	Type   string    `json:"type"`
	Mode   string    `json:"mode"` // octal
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	Link   string    `json:"link,omitempty"`
	Device string    `json:"device,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Xattrs []string  `json:"xattrs,omitempty"`
}

func newEntryRow(p tree.Path, ino *tree.Inode) entryRow {
	r := entryRow{Path: p.Abs(), Type: ino.Type.String(), Mode: fmt.Sprintf("%04o", ino.Mode), UID: ino.UID, GID: ino.GID,
		Size: ino.Size, MTime: time.Unix(ino.MTime.Sec, int64(ino.MTime.Nsec)).UTC(), Link: ino.Link}
	if ino.Type == tree.CharDevice || ino.Type == tree.BlockDevice {
		r.Device = fmt.Sprintf("%d:%d", ino.Rdev.Major, ino.Rdev.Minor)
	}
	if !ino.Object.IsZero() {
		r.Digest = ino.Object.Digest().String()
	}
	for _, x := range ino.Xattrs {
		r.Xattrs = append(r.Xattrs, x.Name)
	}
	return r
}

type lsOptions struct {
	output    outputFlags
	long      bool
	recursive bool
	dir       bool
}

func newLsCmd(a *app) *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:               "ls [flags] IMAGE|SNAPSHOT [PATH]",
		Short:             "List files of an image or a snapshot without mounting it",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeImagesAndSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runLs(cmd.Context(), o, args)
		},
	}
	cmd.Flags().StringVar(&o.output.format, "format", "table", `"table", "json", or a Go template applied to each file`)
	cmd.Flags().BoolVarP(&o.long, "long", "l", false, "with mode, owner, size and time")
	cmd.Flags().BoolVarP(&o.recursive, "recursive", "R", false, "list what is in directories too")
	cmd.Flags().BoolVarP(&o.dir, "directory", "d", false, "list a directory itself, not what is in it")
	return cmd
}

func (a *app) runLs(ctx context.Context, o lsOptions, args []string) (err error) {
	r, err := a.reader(ctx, args[0])
	if err != nil {
		return err
	}
	defer join(&err, r.Close)
	var p tree.Path
	if len(args) == 2 {
		if p, err = tree.ParsePath(path.Clean("/" + args[1])); err != nil {
			return err
		}
	}
	out := bufio.NewWriterSize(a.stdout, 64<<10)
	print := entryPrinter(out, o)
	switch {
	case o.recursive:
		root, terr := r.Tree(p)
		if terr != nil {
			return terr
		}
		err = tree.Walk(root, func(q tree.Path, n *tree.Node) error {
			full := p
			if q != "" {
				full = tree.Path(strings.TrimPrefix(string(p)+"/"+string(q), "/"))
			}
			return errors.Join(ctx.Err(), print(full, n.Inode))
		})
	default:
		var entries []snapshot.Entry
		if o.dir {
			entries, err = r.Stat(p)
		} else {
			entries, err = r.List(p)
		}
		for _, e := range entries {
			if err == nil {
				err = print(e.Path, e.Inode)
			}
		}
	}
	return errors.Join(err, out.Flush())
}

// entryPrinter returns a function that prints one file in the form asked for. JSON is
// one object a line, so that a listing of any size can be read as it comes.
func entryPrinter(w io.Writer, o lsOptions) func(tree.Path, *tree.Inode) error {
	switch o.output.format {
	case "table":
	case "json":
		return func(p tree.Path, ino *tree.Inode) error { return printJSONLine(w, newEntryRow(p, ino)) }
	default:
		t, err := parseTemplate(o.output.format)
		return func(p tree.Path, ino *tree.Inode) error {
			if err != nil {
				return err
			}
			return printTemplate(w, t, newEntryRow(p, ino))
		}
	}
	if !o.long {
		return func(p tree.Path, _ *tree.Inode) error {
			_, err := fmt.Fprintln(w, printable(p.Abs()))
			return err
		}
	}
	return func(p tree.Path, ino *tree.Inode) error {
		r := newEntryRow(p, ino)
		what := itoa(int(r.Size))
		if r.Device != "" {
			what = r.Device
		}
		name := printable(r.Path)
		if ino.Type == tree.Symlink {
			name += " -> " + printable(r.Link)
		}
		_, err := fmt.Fprintf(w, "%s %6d %6d %10s %s %s\n", modeString(ino), r.UID, r.GID, what, r.MTime.Format("2006-01-02 15:04"), name)
		return err
	}
}

// printable quotes what a terminal must not see in a name as ls does.
func printable(s string) string {
	clean := func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }
	if strings.IndexFunc(s, clean) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\\':
			b.WriteString(`\\`)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// modeString prints type and permissions as ls -l does.
func modeString(ino *tree.Inode) string {
	b := []byte("?rwxrwxrwx")
	b[0] = map[tree.Type]byte{tree.Regular: '-', tree.Directory: 'd', tree.Symlink: 'l', tree.CharDevice: 'c',
		tree.BlockDevice: 'b', tree.Fifo: 'p', tree.Socket: 's'}[ino.Type]
	for i := range 9 {
		if ino.Mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	special := func(bit uint16, at int, with, without byte) {
		if ino.Mode&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(0o4000, 3, 's', 'S')
	special(0o2000, 6, 's', 'S')
	special(0o1000, 9, 't', 'T')
	return string(b)
}

func newCatCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "cat IMAGE|SNAPSHOT PATH...",
		Short:             "Print files of an image or a snapshot without mounting it",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeImagesAndSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r, err := a.reader(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer join(&err, r.Close)
			for _, name := range args[1:] {
				if err := a.cat(cmd.Context(), r, name); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			return nil
		},
	}
}

func (a *app) cat(ctx context.Context, r *snapshot.Reader, name string) (err error) {
	p, err := tree.ParsePath(path.Clean("/" + name))
	if err != nil {
		return err
	}
	c, _, err := r.Open(ctx, p)
	if err != nil {
		return err
	}
	defer join(&err, c.Close)
	_, err = io.Copy(a.stdout, c)
	return err
}
