package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/image/reference"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// imageRow is what is printed of one name of an image.
type imageRow struct {
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Digest   string    `json:"digest"`
	Platform string    `json:"platform"`
	Created  time.Time `json:"created,omitzero"`
	Layers   int       `json:"layers"`
	Size     int64     `json:"size"` // bytes of the layers' tars
	Error    string    `json:"error,omitempty"`
}

func newImagesCmd(a *app) *cobra.Command {
	var o outputFlags
	var full bool
	cmd := &cobra.Command{
		Use:   "images [NAME]",
		Short: "List images",
		Long: `Images lists the names of images, or those of one repository. An image that is damaged
is listed with what is wrong on standard error and in the field error of JSON.`,
		Example: `  layerfs images --format '{{.Name}} {{.ID}}'
  layerfs images -q debian`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImages(cmd.Context(), o, full, strings.Join(args, ""))
		},
		ValidArgsFunction: a.completeImages(1),
	}
	o.add(cmd, "each image", "print ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "print ids and digests whole")
	return cmd
}

func (a *app) runImages(ctx context.Context, o outputFlags, full bool, filter string) error {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	refs, err := refsLike(ctx, store, filter)
	if err != nil {
		return err
	}
	var rows []imageRow
	for _, r := range refs {
		name := r.String()
		if filter != "" && name != filter && !strings.HasPrefix(name, filter+":") && !strings.HasPrefix(name, filter+"@") {
			continue
		}
		rows = append(rows, a.imageRow(ctx, store, r))
	}
	now := time.Now()
	cut := func(d string) string {
		if full {
			return d
		}
		return short(d)
	}
	if !o.quiet && o.format == formatTable {
		defer func() {
			for _, r := range rows {
				if r.Error != "" {
					fmt.Fprintf(a.stderr, "layerfs: image %s is damaged: %s; load it again, or remove it with rmi\n", r.Name, r.Error)
				}
			}
		}()
	}
	rows = withID(rows, o.quiet)
	return printRows(a.stdout, o, rows, func(r imageRow) string { return cut(r.ID) }, []column[imageRow]{
		{"NAME", func(r imageRow) string { return r.Name }},
		{"ID", func(r imageRow) string { return cut(r.ID) }},
		{"DIGEST", func(r imageRow) string { return cut(r.Digest) }},
		{"CREATED", func(r imageRow) string {
			if r.Error != "" {
				return "damaged"
			}
			return ago(r.Created, now)
		}},
		{"LAYERS", func(r imageRow) string { return itoa(r.Layers) }},
		{"SIZE", func(r imageRow) string { return size(r.Size) }},
	})
}

// refsLike returns all names, or of what begins like the name of a repository those that
// it may be.
func refsLike(ctx context.Context, store *image.Store, filter string) ([]image.Ref, error) {
	if name, err := reference.Parse(filter); filter != "" && err == nil {
		refs, err := store.RefsOf(ctx, name)
		if err != nil || len(refs) > 0 {
			return refs, err
		}
	}
	return store.Refs(ctx)
}

// withID leaves out, for a list of ids, images that are too damaged to have one, and
// further names of the same image.
func withID(rows []imageRow, quiet bool) []imageRow {
	if !quiet {
		return rows
	}
	seen := map[string]bool{"": true}
	return slices.DeleteFunc(rows, func(r imageRow) bool {
		had := seen[r.ID]
		seen[r.ID] = true
		return had
	})
}

// imageRow describes the image of one name. A damaged image is listed with what is
// wrong, so that it can be seen and removed.
func (a *app) imageRow(ctx context.Context, store *image.Store, r image.Ref) imageRow {
	row := imageRow{Name: r.String(), Digest: r.Target.Digest.String()}
	im, err := store.Open(ctx, r.Target, nil)
	if err != nil {
		row.Error = err.Error()
		return row
	}
	row.ID = im.ID().String()
	row.Layers = len(im.DiffIDs())
	if im.Config.Created != nil {
		row.Created = *im.Config.Created
	}
	p := im.Config.Platform()
	row.Platform = image.FormatPlatform(p)
	for _, d := range im.DiffIDs() {
		l, err := a.snaps.StatLayer(ctx, snapshot.DiffID(d))
		if err != nil {
			row.Error = err.Error()
			return row
		}
		row.Size += l.TarSize
	}
	return row
}

func newTagCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME...",
		Short:             "Give an image further names",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			store, err := a.imageStore(ctx)
			if err != nil {
				return err
			}
			// A collector must not take the image between finding it and naming it.
			unlock, err := a.disk.Share(ctx)
			if err != nil {
				return err
			}
			defer join(&err, unlock)
			m, err := store.Find(ctx, args[0])
			if err != nil {
				return hint(err, imagesHint)
			}
			var refs []image.Ref
			for _, word := range args[1:] {
				name, perr := reference.ParseTagged(word)
				if perr != nil {
					return perr
				}
				refs = append(refs, image.Ref{Name: name, Target: m.Target, Source: "tag of " + args[0]})
			}
			return store.SetRefs(ctx, refs...)
		},
	}
}

func newRmiCmd(a *app) *cobra.Command {
	var force, dry bool
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove names of images; what nothing needs any more goes with the next gc",
		Long: `Rmi removes a name. Given an id or a digest it removes all names of that image, which
needs --force when there are several. Snapshots keep the layers that they stand on.
"layerfs gc" frees the space.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, word := range args {
				errs = append(errs, a.runRmi(cmd.Context(), word, force, dry))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove all names of an image given by id; no error when there is none")
	cmd.Flags().BoolVarP(&dry, "dry-run", "n", false, "say which names would be removed, remove none")
	return cmd
}

func (a *app) runRmi(ctx context.Context, word string, force, dry bool) error {
	store, err := a.imageStore(ctx)
	if err != nil {
		return err
	}
	m, err := store.Find(ctx, word)
	if err != nil {
		if force && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return hint(err, imagesHint)
	}
	refs := m.Refs
	if m.ByName {
		name, err := reference.ParseTagged(word)
		if err != nil {
			return err
		}
		refs = slices.DeleteFunc(slices.Clone(refs), func(r image.Ref) bool { return r.Name != name })
		if len(refs) == 0 {
			refs = m.Refs
		}
	} else if len(refs) > 1 && !force {
		names := make([]string, len(refs))
		for i, r := range refs {
			names[i] = r.String()
		}
		return &exitError{code: codeInUse, err: fmt.Errorf("remove %s: it has %d names, %s; give one, or --force for all", word, len(refs), strings.Join(names, " "))}
	}
	said := "Would untag"
	if !dry {
		said = "Untagged"
		if err := store.RemoveRefs(ctx, refs...); err != nil {
			return err
		}
	}
	for _, r := range refs {
		if _, err := fmt.Fprintf(a.stdout, "%s: %s\n", said, r); err != nil {
			return err
		}
	}
	return nil
}

func newInspectCmd(a *app) *cobra.Command {
	var o outputFlags
	cmd := &cobra.Command{
		Use:   "inspect CONTAINER|IMAGE|SNAPSHOT...",
		Short: "Print all that is known of containers, images or snapshots, as JSON",
		Args:  cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeWith(-1, func(ctx context.Context) []string {
			return slices.Concat(a.containerNames(ctx), a.snapshotNames(ctx), a.imageNames(ctx))
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []any
			for _, word := range args {
				v, err := a.inspect(cmd.Context(), word)
				if err != nil {
					return err
				}
				all = append(all, v)
			}
			if o.template != nil {
				for _, v := range all {
					if err := o.printTemplate(a.stdout, v); err != nil {
						return err
					}
				}
				return nil
			}
			return printJSON(a.stdout, all)
		},
	}
	o.addFormat(cmd, "f", formatJSON, `"json", or a Go template applied to each`)
	return cmd
}

// imageInspect is what inspect prints of an image.
type imageInspect struct {
	ID       string          `json:"id"`
	Digest   string          `json:"digest"`
	Target   string          `json:"target"`
	Names    []string        `json:"names"`
	Platform string          `json:"platform"`
	Chain    string          `json:"chainID"`
	Layers   []layerInspect  `json:"layers"`
	Config   *image.Config   `json:"config"`
	History  []historyRecord `json:"history"`
}

type layerInspect struct {
	DiffID    string `json:"diffID"`
	Blob      string `json:"blob"`
	BlobSize  int64  `json:"blobSize"`
	MediaType string `json:"mediaType"`
	BlobIs    string `json:"blobIs"` // one of the constants below
	Encoder   string `json:"encoder,omitempty"`
	TarSize   int64  `json:"tarSize"`
	Entries   int    `json:"entries"`
	Objects   int    `json:"objects"`
	Bytes     int64  `json:"objectBytes"`
}

// How the blob that the manifest names for a layer can be had.
const (
	blobPlain     = "plain"     // the uncompressed tar, which is always made again
	blobKept      = "kept"      // as it came
	blobRemade    = "remade"    // made again with the encoder
	blobDiscarded = "discarded" // no longer
)

// inspectBlob says how a blob can be had, and the encoder that is known to make it.
func (a *app) inspectBlob(ctx context.Context, d digest.Digest, diffID snapshot.DiffID) (is, encoder string, err error) {
	if d.String() == diffID.String() {
		return blobPlain, "", nil
	}
	kept, err := a.snaps.HasBlob(ctx, d)
	if err != nil {
		return "", "", err
	}
	b, err := a.snaps.BlobOf(ctx, d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	switch {
	case kept:
		return blobKept, b.Encoder, nil
	case b.Encoder != "":
		return blobRemade, b.Encoder, nil
	default:
		return blobDiscarded, "", nil
	}
}

func (a *app) inspect(ctx context.Context, word string) (any, error) {
	ctrs, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	c, err := ctrs.Find(ctx, word)
	if err == nil {
		return a.inspectContainer(ctrs, c)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, container.ErrAmbiguous) {
		return nil, err
	}
	rec, err := a.snapshotNamed(ctx, word)
	if rec != nil || err != nil {
		return rec, err
	}
	img, err := a.imageIfNoSnapshot(ctx, word)
	if err != nil {
		return nil, err
	}
	out := imageInspect{ID: img.ID().String(), Digest: img.digest.String(), Target: img.Target.Digest.String(),
		Names: []string{}, Platform: image.FormatPlatform(img.Config.Platform()), Config: img.Config}
	names, err := a.imgs.Names(ctx, img.Target)
	if err != nil {
		return nil, err
	}
	for _, r := range names {
		if !r.Name.IsZero() {
			out.Names = append(out.Names, r.Name.Familiar())
		}
	}
	if chain := snapshot.Chain(img.layers); len(chain) > 0 {
		out.Chain = chain[len(chain)-1].String()
	}
	for i, d := range img.layers {
		l, err := a.snaps.StatLayer(ctx, d)
		if err != nil {
			return nil, err
		}
		li := layerInspect{DiffID: d.String(), TarSize: l.TarSize, Entries: l.Entries, Objects: l.Objects, Bytes: l.Bytes}
		if i < len(img.Layers) {
			blob := img.Layers[i]
			li.Blob, li.BlobSize, li.MediaType = blob.Digest.String(), blob.Size, blob.MediaType
			if li.BlobIs, li.Encoder, err = a.inspectBlob(ctx, blob.Digest, d); err != nil {
				return nil, err
			}
		}
		out.Layers = append(out.Layers, li)
	}
	out.History, err = a.history(ctx, img)
	return out, err
}

// historyRecord is one step of an image's history.
type historyRecord struct {
	Created   time.Time `json:"created,omitzero"`
	CreatedBy string    `json:"createdBy"`
	Comment   string    `json:"comment,omitempty"`
	Author    string    `json:"author,omitempty"`
	DiffID    string    `json:"diffID,omitempty"`
	Size      int64     `json:"size"`
}

func (a *app) history(ctx context.Context, img *resolved) ([]historyRecord, error) {
	var out []historyRecord
	for _, h := range slices.Backward(img.History()) {
		r := historyRecord{CreatedBy: h.CreatedBy, Comment: h.Comment, Author: h.Author, DiffID: h.DiffID.String()}
		if h.Created != nil {
			r.Created = *h.Created
		}
		if h.DiffID != "" {
			l, err := a.snaps.StatLayer(ctx, snapshot.DiffID(h.DiffID))
			if err != nil {
				return nil, err
			}
			r.Size = l.TarSize
		}
		out = append(out, r)
	}
	return out, nil
}

func newHistoryCmd(a *app) *cobra.Command {
	var o outputFlags
	var full bool
	cmd := &cobra.Command{
		Use:               "history IMAGE",
		Short:             "Show how an image came to be, newest step first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, err := a.image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rows, err := a.history(cmd.Context(), img)
			if err != nil {
				return err
			}
			now := time.Now()
			cut := func(s string, n int) string {
				s = strings.Join(strings.Fields(s), " ")
				if r := []rune(s); !full && len(r) > n {
					return string(r[:n-1]) + "…"
				}
				return s
			}
			return printRows(a.stdout, o, rows, func(r historyRecord) string { return r.DiffID }, []column[historyRecord]{
				{"LAYER", func(r historyRecord) string {
					if r.DiffID == "" {
						return "-"
					}
					if full {
						return r.DiffID
					}
					return short(r.DiffID)
				}},
				{"CREATED", func(r historyRecord) string { return ago(r.Created, now) }},
				{"CREATED BY", func(r historyRecord) string { return cut(r.CreatedBy, 50) }},
				{"SIZE", func(r historyRecord) string { return size(r.Size) }},
				{"COMMENT", func(r historyRecord) string { return cut(r.Comment, 40) }},
			})
		},
	}
	o.add(cmd, "each step", "print the DiffIDs only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "print everything whole")
	return cmd
}
