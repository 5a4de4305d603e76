package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/layerfs/layerfs/tree"
)

// memo is what a collector has learned and the next one need not find out again: that
// each object of the store belonged to a layer, and the objects of each layer. As long as
// nothing but publications has happened since, the only objects that nothing reaches are
// those of layers that nothing reaches, and a collection need not look at all objects.
//
// In the file, after what package disk adds, there follow each other for each layer its
// DiffID (32 bytes), size in bytes and time of writing in nanoseconds of its recipe (8
// each), the number of objects (4), and their ids (32 each); all numbers little-endian.
type memo map[DiffID]memoLayer

// memoLayer is what is known of one layer.
type memoLayer struct {
	stamp   stamp
	objects []byte // ids, one after the other
}

// stamp tells a recipe from one that was written in its place: a layer that was imported
// anew under another limit of inline contents has other objects.
type stamp struct {
	size int64
	mod  int64 // nanoseconds since the epoch
}

func stampOf(size int64, mod time.Time) stamp { return stamp{size, mod.UnixNano()} }

const (
	idSize       = sha256.Size
	memoLayerFix = idSize + 8 + 8 + 4
)

// each calls fn for the objects.
func (l memoLayer) each(fn func(tree.ObjectID)) {
	for b := l.objects; len(b) > 0; b = b[idSize:] {
		fn(tree.ObjectID(b[:idSize]))
	}
}

func (m memo) encode() []byte {
	size := 0
	for _, l := range m {
		size += memoLayerFix + len(l.objects)
	}
	b := make([]byte, 0, size)
	for d, l := range m {
		id, err := hex.DecodeString(d.hex())
		if err != nil || len(id) != idSize {
			continue // what the memo lacks is read again
		}
		b = append(b, id...)
		b = binary.LittleEndian.AppendUint64(b, uint64(l.stamp.size))
		b = binary.LittleEndian.AppendUint64(b, uint64(l.stamp.mod))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(l.objects)/idSize)) //nolint:gosec // limited by MaxRecord of a recipe
		b = append(b, l.objects...)
	}
	return b
}

// parseMemo is the inverse of encode; what does not fit wraps fs.ErrInvalid. The memo
// refers to b.
func parseMemo(b []byte) (memo, error) {
	m := memo{}
	for len(b) > 0 {
		if len(b) < memoLayerFix {
			return nil, fmt.Errorf("memo ends in the middle of a layer: %w", fs.ErrInvalid)
		}
		d := DiffID("sha256:" + hex.EncodeToString(b[:idSize]))
		l := memoLayer{stamp: stamp{int64(binary.LittleEndian.Uint64(b[idSize:])), int64(binary.LittleEndian.Uint64(b[idSize+8:]))}} //nolint:gosec // compared only
		n := int64(binary.LittleEndian.Uint32(b[idSize+16:])) * idSize
		b = b[memoLayerFix:]
		if n > int64(len(b)) {
			return nil, fmt.Errorf("memo ends in the middle of the objects of %s: %w", d, fs.ErrInvalid)
		}
		l.objects, b = b[:n:n], b[n:]
		if _, twice := m[d]; twice {
			return nil, fmt.Errorf("memo has %s twice: %w", d, fs.ErrInvalid)
		}
		m[d] = l
	}
	return m, nil
}

// readMemo returns the memo of the last collection if it still holds, else nil.
func (s *Store) readMemo(takings uint64) memo {
	b, err := s.disk.ReadMemo(takings)
	if err == nil {
		var m memo
		if m, err = parseMemo(b); err == nil {
			return m
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.log.Debug("memo of the last collection", "error", err)
	}
	return nil
}

// writeMemo notes what a collection has learned. Failing is no harm: the next one looks
// at everything.
func (s *Store) writeMemo(ctx context.Context, takings uint64, m memo) {
	if err := s.disk.WriteMemo(ctx, takings, m.encode()); err != nil {
		s.log.Debug("memo for the next collection", "error", err)
	}
}

// layerOfRecord returns the layer of which that is the recipe's path.
func layerOfRecord(rel string) (DiffID, bool) {
	name, ok := strings.CutPrefix(rel, layersDir+"/")
	return DiffID("sha256:" + name), ok
}
