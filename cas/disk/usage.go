package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sum counts files and the bytes in them.
type Sum struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"` // sizes of the contents, holes included
}

// count adds files; negative numbers take them away. A nil sum is one that nobody keeps.
func (s *Sum) count(files, size int64) {
	if s == nil {
		return
	}
	s.Count += files
	s.Bytes += size
}

// Usage is what the store holds.
type Usage struct {
	// Exact is false when a process died, or the power went, in the middle of a change.
	// The sums may then be off by that change until [Store.Recount].
	Exact      bool
	Blobs      Sum
	Objects    Sum
	Layers     Sum // records below layers/
	Stacks     Sum // records below stacks/
	Quarantine Sum
}

// Usage returns the kept sums. It reads one small file, however large the store is.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	r, err := s.readUsage(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	u := r.usage()
	if u.Exact {
		torn, err := s.tornIngests(ctx)
		if err != nil {
			return Usage{}, fmt.Errorf("read usage: %w", err)
		}
		u.Exact = len(torn) == 0
	}
	return u, nil
}

// Epoch returns a number that differs from every earlier one after anything was
// published or any record was written or removed.
func (s *Store) Epoch(ctx context.Context) (uint64, error) {
	r, err := s.readUsage(ctx)
	if err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	return r.Epoch, nil
}

// The record of usage.json has a fixed size, so that it is overwritten in place, which
// needs no free space: a JSON object padded with spaces, a newline, the CRC-32C of all
// that as eight hexadecimal digits, a newline. A record that does not fit its checksum
// was torn by a power cut; its sums then count from zero and are not exact.
const (
	usageSize   = 512
	usageText   = usageSize - 9 // JSON, padding and newline
	usageFormat = 1
)

type usageRecord struct {
	Version int `json:"version"`
	// Unsure counts changes that were begun and not ended: those under way, and those
	// whose process died. The sums are exact when it is zero.
	Unsure uint64 `json:"unsure"`
	// Epoch grows with every publication and record, Sweeps before anything is
	// taken away, and after a sweep has ended.
	Epoch      uint64 `json:"epoch"`
	Sweeps     uint64 `json:"sweeps"`
	Blobs      Sum    `json:"blobs"`
	Objects    Sum    `json:"objects"`
	Layers     Sum    `json:"layers"`
	Stacks     Sum    `json:"stacks"`
	Quarantine Sum    `json:"quarantine"`
}

func (r *usageRecord) usage() Usage {
	return Usage{Exact: r.Unsure == 0, Blobs: r.Blobs, Objects: r.Objects, Layers: r.Layers, Stacks: r.Stacks, Quarantine: r.Quarantine}
}

func (r *usageRecord) sums() [5]*Sum {
	return [...]*Sum{&r.Blobs, &r.Objects, &r.Layers, &r.Stacks, &r.Quarantine}
}

// of returns the sum in which a path below the root counts, nil for none.
func (r *usageRecord) of(rel string) *Sum {
	top, _, _ := strings.Cut(rel, "/")
	switch top {
	case blobsDir:
		return &r.Blobs
	case objectsDir:
		return &r.Objects
	case "layers":
		return &r.Layers
	case "stacks":
		return &r.Stacks
	case quarantineDir:
		return &r.Quarantine
	default:
		return nil
	}
}

// add counts files that came, or went when the numbers are negative.
func (r *usageRecord) add(to *Sum, count, size int64) {
	if to == nil {
		return
	}
	to.count(count, size)
	if to.Count < 0 || to.Bytes < 0 {
		to.Count, to.Bytes = max(to.Count, 0), max(to.Bytes, 0)
		r.Unsure++
	}
}

// addAll adds the sums of another record.
func (r *usageRecord) addAll(change *usageRecord) {
	for i, sum := range change.sums() {
		r.add(r.sums()[i], sum.Count, sum.Bytes)
	}
}

// encode returns the usageSize bytes of the record.
func (r usageRecord) encode() []byte {
	r.Version = usageFormat
	b, err := json.Marshal(r)
	if err != nil || len(b) >= usageText {
		// Numbers and fixed names always marshal, and fit even with 20 digits each.
		panic(fmt.Sprintf("usage record of %d bytes: %v", len(b), err))
	}
	return seal(b)
}

// seal pads the JSON text, of less than usageText bytes, and adds the checksum.
func seal(text []byte) []byte {
	b := append(bytes.Clone(text), bytes.Repeat([]byte(" "), max(usageText-1-len(text), 0))...)
	b = append(b[:usageText-1], '\n')
	return fmt.Appendf(b, "%08x\n", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// parseUsage is the inverse of encode. Anything else wraps fs.ErrInvalid.
func parseUsage(b []byte) (usageRecord, error) {
	var r usageRecord
	if len(b) != usageSize {
		return r, fmt.Errorf("%s of %d bytes instead of %d: %w", usageFile, len(b), usageSize, fs.ErrInvalid)
	}
	sum := crc32.Checksum(b[:usageText], crc32.MakeTable(crc32.Castagnoli))
	if string(b[usageText:]) != fmt.Sprintf("%08x\n", sum) {
		return r, fmt.Errorf("%s does not fit its checksum: %w", usageFile, fs.ErrInvalid)
	}
	if err := json.Unmarshal(b[:usageText], &r); err != nil {
		return r, fmt.Errorf("%s: %w: %w", usageFile, err, fs.ErrInvalid)
	}
	if r.Version != usageFormat {
		return r, fmt.Errorf("%s: version %d: %w", usageFile, r.Version, fs.ErrInvalid)
	}
	for _, sum := range r.sums() {
		if sum.Count < 0 || sum.Bytes < 0 {
			return r, fmt.Errorf("%s: negative sum: %w", usageFile, fs.ErrInvalid)
		}
	}
	return r, nil
}

// readUsage reads the record as some change has left it.
func (s *Store) readUsage(ctx context.Context) (r usageRecord, err error) {
	f, err := s.root.Open(usageFile)
	if errors.Is(err, fs.ErrNotExist) {
		return damagedUsage(), nil
	}
	if err != nil {
		return r, err
	}
	unlock, err := waitLock(ctx, f, flockOf(unix.LOCK_SH))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return loadUsage(f)
}

// loadUsage reads the record from the locked file f.
func loadUsage(f *os.File) (usageRecord, error) {
	b := make([]byte, usageSize+1)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return usageRecord{}, fmt.Errorf("read %s: %w", usageFile, err)
	}
	if r, err := parseUsage(b[:n]); err == nil {
		return r, nil
	}
	return damagedUsage(), nil
}

// damagedUsage stands for a record that is lost. Who compares its numbers with what he
// read before sees a change.
func damagedUsage() usageRecord {
	now := uint64(time.Now().UnixNano())
	return usageRecord{Epoch: now, Sweeps: now, Unsure: 1}
}

// changeUsage lets change modify the record under its lock, and with sync returns when
// the new one is on stable storage.
func (s *Store) changeUsage(ctx context.Context, sync bool, change func(*usageRecord) error) error {
	return s.lockUsage(ctx, func(f *os.File, r *usageRecord) error {
		if err := change(r); err != nil {
			return err
		}
		return s.storeUsage(f, r, sync)
	})
}

// lockUsage calls fn with the record's file, locked, and the record as it is.
func (s *Store) lockUsage(ctx context.Context, fn func(*os.File, *usageRecord) error) (err error) {
	f, err := s.root.OpenFile(usageFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("change usage: %w", err)
	}
	unlock, err := waitLock(ctx, f, flockOf(unix.LOCK_EX))
	if err != nil {
		return fmt.Errorf("change usage: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	r, err := loadUsage(f)
	if err != nil {
		return err
	}
	return fn(f, &r)
}

// storeUsage overwrites the record in the locked file f.
func (s *Store) storeUsage(f *os.File, r *usageRecord, sync bool) error {
	if _, err := f.WriteAt(r.encode(), 0); err != nil {
		return fmt.Errorf("write %s: %w", usageFile, err)
	}
	if sync && !s.opts.NoSync {
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("flush %s: %w", usageFile, err)
		}
	}
	return nil
}

// takeAway lets change remove files and count them, in such a way that a crash in the
// middle leaves the sums marked as not exact. The record is locked meanwhile.
func (s *Store) takeAway(ctx context.Context, change func(*usageRecord) error) error {
	return s.lockUsage(ctx, func(f *os.File, r *usageRecord) error {
		r.beginTaking()
		if err := s.storeUsage(f, r, true); err != nil {
			return err
		}
		err := change(r)
		r.Unsure--
		return errors.Join(err, s.storeUsage(f, r, true))
	})
}

// beginTaking announces that something will be taken away.
func (r *usageRecord) beginTaking() {
	r.Epoch++
	r.Sweeps++
	r.Unsure++
}

// endTaking says that it has been, of a taking during which the record was not locked. The
// number of takings grows again: an ingest that began in the middle has found, and a
// recount has counted, what was taken after that.
func (r *usageRecord) endTaking() {
	r.Sweeps++
	if r.Unsure > 0 {
		r.Unsure--
	}
}

// recountTries is how often Recount walks the store beside others who change it,
// before it makes them wait.
const recountTries = 3

// Recount walks the store, corrects the kept sums, and returns them. A store that
// keeps changing meanwhile is locked for the last walk.
func (s *Store) Recount(ctx context.Context) (Usage, error) {
	if err := s.writable(); err != nil {
		return Usage{}, err
	}
	if err := s.settleTorn(ctx); err != nil {
		return Usage{}, err
	}
	for range recountTries {
		before, err := s.readUsage(ctx)
		if err != nil {
			return Usage{}, err
		}
		counted, err := s.count(ctx)
		if err != nil {
			return Usage{}, err
		}
		u, ok, err := s.adopt(ctx, counted, before.Epoch, before.Sweeps)
		if err != nil || ok {
			return u, err
		}
	}
	unlock, err := s.Exclusive(ctx)
	if err != nil {
		return Usage{}, err
	}
	counted, err := s.count(ctx)
	if err == nil {
		err = s.changeUsage(ctx, true, func(r *usageRecord) error {
			counted.Epoch, counted.Sweeps = r.Epoch, r.Sweeps
			*r = counted
			return nil
		})
	}
	return counted.usage(), errors.Join(err, unlock())
}

// adopt makes counted the kept sums if nothing was changed since that epoch.
func (s *Store) adopt(ctx context.Context, counted usageRecord, epoch, sweeps uint64) (_ Usage, ok bool, err error) {
	unlock, err := s.Exclusive(ctx)
	if err != nil {
		return Usage{}, false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = s.changeUsage(ctx, true, func(r *usageRecord) error {
		if ok = r.Epoch == epoch && r.Sweeps == sweeps; ok {
			counted.Epoch, counted.Sweeps = epoch, sweeps
			*r = counted
		}
		return nil
	})
	return counted.usage(), ok, err
}

// count walks everything that is counted.
func (s *Store) count(ctx context.Context) (usageRecord, error) {
	var r usageRecord
	for _, top := range [...]string{blobsDir, objectsDir, "layers", "stacks", quarantineDir} {
		err := s.walk(ctx, top, math.MaxInt, func(rel string, st fileStat) error {
			r.add(r.of(rel), 1, st.size)
			return nil
		})
		if err != nil {
			return r, fmt.Errorf("count %s: %w", top, err)
		}
	}
	return r, nil
}
