package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// verifiedObject hashes an object on its way out. The read that reaches the end of the
// object for the first time fails with an error that wraps cas.ErrCorrupt when the bytes
// are not those of its id, so that who reads all of it in order never takes damage for
// content.
type verifiedObject struct {
	cas.Reader
	id tree.ObjectID

	mu   sync.Mutex // guards what follows
	h    hash.Hash
	next int64 // bytes hashed
}

func newVerifiedObject(r cas.Reader, id tree.ObjectID) *verifiedObject {
	return &verifiedObject{Reader: r, id: id, h: sha256.New()}
}

func (v *verifiedObject) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.Reader.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if off > v.next {
		// Something was left out, such as a hole that was found by looking for data.
		if _, err := io.Copy(v.h, io.NewSectionReader(v.Reader, v.next, off-v.next)); err != nil {
			return 0, err
		}
		v.next = off
	}
	if end := off + int64(n); end > v.next {
		v.h.Write(p[v.next-off : n])
		v.next = end
		if end == v.Size() {
			var got tree.ObjectID
			v.h.Sum(got[:0])
			if got != v.id {
				return 0, fmt.Errorf("object %s holds %s: %w", v.id.Digest(), got.Digest(), cas.ErrCorrupt)
			}
		}
	}
	return n, err
}
