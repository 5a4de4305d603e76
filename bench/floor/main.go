// Command floor does of an import what cannot be left out, and nothing else: it
// decompresses layers, parses them, and computes the SHA-256 of each tar and of each
// file in it. It writes nothing.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/layerfs/layerfs/tarstream/compress"
)

func main() {
	// Two layers side by side, as an import on two processors does it.
	errs := make([]error, len(os.Args))
	slots := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for i, name := range os.Args[1:] {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = layer(name)
			<-slots
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func layer(name string) (err error) {
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
	content := sha256.New()
	sum := make([]byte, 0, sha256.Size)
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
		content.Reset()
		if _, err := io.CopyBuffer(struct{ io.Writer }{content}, t, buf); err != nil {
			return fmt.Errorf("%s: %s: %w", name, hdr.Name, err)
		}
		sum = content.Sum(sum[:0])
		files++
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
