package disk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// The memo is what a collector notes for the next one, a cache. It is a file of the
// root: eight bytes of magic, the number of takings when it was written as eight bytes
// little-endian, the collector's data, and the CRC-32C of all that in four bytes. It is
// not flushed: one that a power cut has torn does not fit its checksum.
const (
	memoFile  = "gc.memo"
	memoMagic = "layerfsG"
	memoHead  = 16
	memoTail  = 4
	// maxMemo is the size up to which the memo of a collector is written and read, in
	// bytes, enough for some 30 million objects.
	maxMemo = 1 << 30
)

// OneTaking is how much [Store.Takings] grows with one call of Sweep, Expire or ExpireOnly.
const OneTaking = 2

// Takings returns a number that grows whenever anything is taken away from the store. ok
// is false when a process died, or the power went, in the middle of a change, or an
// ingest died that nobody has cleaned up after: then there may be what no record names.
func (s *Store) Takings(ctx context.Context) (n uint64, ok bool, err error) {
	r, err := s.readUsage(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("read the number of takings: %w", err)
	}
	infos, err := s.Ingests(ctx)
	if err != nil {
		return 0, false, err
	}
	ok = r.Unsure == 0
	for _, info := range infos {
		ok = ok && info.Live
	}
	return r.Sweeps, ok, nil
}

// ReadMemo returns what WriteMemo wrote last when Takings returned n. Where there is no
// such thing the error wraps fs.ErrNotExist.
func (s *Store) ReadMemo(n uint64) ([]byte, error) {
	b, err := s.readLimited(memoFile, maxMemo)
	if errors.Is(err, fs.ErrInvalid) {
		err = fs.ErrNotExist // too large
	}
	if err != nil {
		return nil, fmt.Errorf("read memo: %w", err)
	}
	end := len(b) - memoTail
	if end < memoHead || string(b[:len(memoMagic)]) != memoMagic || binary.LittleEndian.Uint64(b[len(memoMagic):]) != n ||
		binary.LittleEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, fmt.Errorf("read memo: it is damaged or of another time: %w", fs.ErrNotExist)
	}
	return b[memoHead:end], nil
}

// WriteMemo replaces the memo. n is what Takings returned; data belongs to the callee.
func (s *Store) WriteMemo(ctx context.Context, n uint64, data []byte) error {
	if err := s.writeMemo(ctx, n, data); err != nil {
		return fmt.Errorf("write memo: %w", err)
	}
	return nil
}

func (s *Store) writeMemo(ctx context.Context, n uint64, data []byte) (err error) {
	if err := s.writable(); err != nil {
		return err
	}
	if len(data) > maxMemo-memoHead-memoTail {
		return fmt.Errorf("%d bytes: %w", len(data), fs.ErrInvalid)
	}
	head := binary.LittleEndian.AppendUint64([]byte(memoMagic), n)
	table := crc32.MakeTable(crc32.Castagnoli)
	tail := binary.LittleEndian.AppendUint32(nil, crc32.Update(crc32.Checksum(head, table), table, data))
	// As a temporary file of a record: who cleans the ingest directory locks it alone.
	unlock, err := s.lockIngests(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	temp := ingestDir + "/" + rand.Text()
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for _, part := range [...][]byte{head, data, tail} {
		if err == nil {
			_, err = f.Write(part)
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.root.Rename(temp, memoFile)
	}
	if err != nil {
		return errors.Join(err, s.root.Remove(temp))
	}
	return nil
}
