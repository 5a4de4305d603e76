package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
	"github.com/spf13/cobra"
)

// entryRow is what is printed of one file.
type entryRow struct {
	Path   string    `json:"path"`
	Raw    []byte    `json:"rawPath,omitempty"` // when it is not UTF-8
	Type   string    `json:"type"`
	Mode   string    `json:"mode"` // octal
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	Link   string    `json:"link,omitempty"`
	RawTo  []byte    `json:"rawLink,omitempty"` // when it is not UTF-8
	Device string    `json:"device,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Xattrs []string  `json:"xattrs,omitempty"`
}

func newEntryRow(p tree.Path, ino *tree.Inode) entryRow {
	r := entryRow{Path: p.Abs(), Raw: raw(p.Abs()), RawTo: raw(ino.Link), Type: ino.Type.String(), Mode: fmt.Sprintf("%04o", ino.Mode), UID: ino.UID, GID: ino.GID,
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
		Use:   "ls [flags] IMAGE|SNAPSHOT [PATH]",
		Short: "List files of an image or a snapshot without mounting it",
		Long: `Ls lists a directory, or what PATH is when it is none, of what a mount would show.
` + quoting + `
JSON has the bytes of a name or link target that is not UTF-8 as rawPath or rawLink, in base64.`,
		Example: `  layerfs ls -l debian:12 /etc
  layerfs ls -R --format '{{.Size}}\t{{.Path}}' work`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeImagesAndSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runLs(cmd.Context(), o, args)
		},
	}
	o.output.addFormat(cmd, "", formatTable, `"table", "json" (an object a line), or a Go template applied to each file`)
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
			return errors.Join(ctx.Err(), print(snapshot.Entry{Path: full, Inode: n.Inode}))
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
				err = print(e)
			}
		}
	}
	return errors.Join(err, out.Flush())
}

// entryPrinter returns a function that prints one file in the form asked for.
func entryPrinter(w io.Writer, o lsOptions) func(snapshot.Entry) error {
	return printEach(w, o.output,
		func(e snapshot.Entry) entryRow { return newEntryRow(e.Path, e.Inode) },
		func(w io.Writer, e snapshot.Entry) error {
			if !o.long {
				_, err := fmt.Fprintln(w, printable(e.Path.Abs()))
				return err
			}
			return printLong(w, e)
		})
}

// printLong prints a file as ls -l does.
func printLong(w io.Writer, e snapshot.Entry) error {
	r := newEntryRow(e.Path, e.Inode)
	what := strconv.FormatInt(r.Size, 10)
	if r.Device != "" {
		what = r.Device
	}
	name := printable(r.Path)
	if e.Inode.Type == tree.Symlink {
		// The first arrow is the one between name and target.
		name = strings.ReplaceAll(name, " -> ", `\040-> `) + " -> " + printable(r.Link)
	}
	_, err := fmt.Fprintf(w, "%s %6d %6d %10s %s %s\n", modeString(e.Inode), r.UID, r.GID, what, r.MTime.Format("2006-01-02 15:04"), name)
	return err
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
		Use:   "cat IMAGE|SNAPSHOT PATH...",
		Short: "Print files of an image or a snapshot without mounting it",
		Long: `Cat writes the content of files to standard output. Symbolic links are not followed:
a link's target is shown by ls -l.`,
		Example:           `  layerfs cat debian:12 /etc/os-release`,
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
	c, ino, err := r.Open(ctx, p)
	if err != nil {
		return err
	}
	defer join(&err, c.Close)
	var content io.Reader = c
	if !ino.Object.IsZero() {
		content = cas.NewVerifiedReader(c, cas.Expect{Digest: ino.Object.Digest(), Size: ino.Size})
	}
	if _, err = io.Copy(a.stdout, content); err != nil {
		return fmt.Errorf("%s: %w", p.Abs(), err)
	}
	return nil
}
