// Command floor does of an import what cannot be left out, and nothing else: it
// decompresses layers, parses them, and computes the SHA-256 of each tar and of each
// file in it. It writes nothing, unless -write names a directory: then it also creates a
// file there for each content above 2 KiB that it has not met before, and flushes nothing.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/layerfs/layerfs/tarstream/compress"
)

func main() {
	out := &output{}
	flag.StringVar(&out.dir, "write", "", "directory to write contents to")
	flag.Parse()
	// Two layers side by side, as an import on two processors does it.
	errs := make([]error, flag.NArg())
	slots := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for i, name := range flag.Args() {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = layer(name, out)
			<-slots
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

// output is where contents are written.
type output struct {
	dir  string // "" for nowhere
	seen sync.Map
}

// smallest is the size above which a content is written: what layerfs does not keep
// inline.
const smallest = 2048

// slab is a directory that one layer fills.
type slab struct {
	*output
	name  string
	files int
}

func (s *slab) write(sum [sha256.Size]byte, data []byte) error {
	if s.dir == "" || len(data) <= smallest {
		return nil
	}
	if _, met := s.seen.LoadOrStore(sum, nil); met {
		return nil
	}
	const many = 1000 // as an import does
	dir := filepath.Join(s.dir, s.name+"-"+strconv.Itoa(s.files/many))
	if s.files%many == 0 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	s.files++
	return os.WriteFile(filepath.Join(dir, strconv.Itoa(s.files%many)), data, 0o444)
}

func layer(name string, out *output) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, format, err := compress.NewReader(f, compress.Limits{})
	if err != nil {
		return err
	}
	var r io.Reader = z
	if format == compress.None {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r = f
	}
	h := &hashing{r: r, tar: sha256.New(), buf: make([]byte, 128<<10)}
	t := tar.NewReader(h)
	to := slab{output: out, name: filepath.Base(name)}
	content := sha256.New()
	var sum [sha256.Size]byte
	buf := make([]byte, 128<<10)
	files := 0
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if hdr.Size == 0 {
			continue
		}
		files++
		if out.dir != "" {
			// Read whole, since what is known already is not written.
			if int64(cap(buf)) < hdr.Size {
				buf = make([]byte, hdr.Size)
			}
			data := buf[:hdr.Size]
			if _, err := io.ReadFull(t, data); err != nil {
				return fmt.Errorf("%s: %s: %w", name, hdr.Name, err)
			}
			if err := to.write(sha256.Sum256(data), data); err != nil {
				return err
			}
			continue
		}
		content.Reset()
		if _, err := io.CopyBuffer(struct{ io.Writer }{content}, t, buf[:128<<10]); err != nil {
			return fmt.Errorf("%s: %s: %w", name, hdr.Name, err)
		}
		content.Sum(sum[:0])
	}
	if _, err := io.Copy(io.Discard, h); err != nil {
		return err
	}
	fmt.Printf("%s: sha256:%x, %d files\n", name, h.tar.Sum(nil), files)
	return z.Close()
}

// hashing is a buffered reader that hashes what passes, a buffer at a time.
type hashing struct {
	r          io.Reader
	tar        hash.Hash
	buf        []byte
	start, end int
}

func (h *hashing) hashed() { h.tar.Write(h.buf[:h.end]) }

func (h *hashing) Read(p []byte) (int, error) {
	if h.start == h.end {
		h.hashed()
		h.start, h.end = 0, 0
		n, err := h.r.Read(h.buf)
		if n == 0 {
			return 0, err
		}
		h.end = n
	}
	n := copy(p, h.buf[h.start:h.end])
	h.start += n
	return n, nil
}
