package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"

	"github.com/layerfs/layerfs/tree"
	"golang.org/x/sys/unix"
)

// shard is what an ingest knows of one of the directories of objects.
type shard struct {
	mu     sync.Mutex
	ids    map[tree.ObjectID]struct{} // met by this batch
	hits   []objectRef                // those of them that were in the store
	misses int64                      // how often one was looked for that was not there
	// names, once it is read, holds eight bytes of the id of every object in the
	// directory: what is not in it was not there.
	names map[uint64]struct{}
}

// listedPerMiss is about how many entries of a directory can be listed in the time of
// looking up one that is not there: an estimate, as only the gain on an empty store was
// measured.
const listedPerMiss = 10

// Has reports whether the object is in the batch or in the store.
func (in *Ingest) Has(id tree.ObjectID) bool {
	sh := &in.shards[id[0]]
	sh.mu.Lock()
	_, ok := sh.ids[id]
	sh.mu.Unlock()
	if !ok {
		_, err := in.s.statObject(id)
		ok = err == nil || in.s.holdsElsewhere(id, -1)
	}
	return ok
}

// HoldsObject reports whether the store, or one that it stands on, has an object, and it
// has that size in bytes.
func (s *Store) HoldsObject(id tree.ObjectID, size int64) bool {
	got, err := s.statObject(id)
	return err == nil && got == size || err != nil && s.holdsElsewhere(id, size)
}

// statObject returns the size of an object, or an error that wraps fs.ErrNotExist.
// Imports call it for every file, so it makes no message for the usual case.
func (s *Store) statObject(id tree.ObjectID) (int64, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(s.objects.Fd()), id.Path(), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, fmt.Errorf("stat object %s: %w", id.Digest(), err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, fmt.Errorf("stat object %s: not a regular file: %w", id.Digest(), fs.ErrInvalid)
	}
	return st.Size, nil
}

// claim notes that an object was met. It returns false when the batch knew it before.
func (in *Ingest) claim(id tree.ObjectID) bool {
	sh := &in.shards[id[0]]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, ok := sh.ids[id]; ok {
		return false
	}
	if sh.ids == nil {
		sh.ids = map[tree.ObjectID]struct{}{}
	}
	sh.ids[id] = struct{}{}
	return true
}

// present reports whether the store has a claimed object, and if so notes it, for
// Publish to look whether it is still there. An object of another size than is to be put
// is damaged; it counts as absent, and publishing replaces it.
func (in *Ingest) present(ref objectRef) (bool, error) {
	found, err := in.presentHere(ref)
	if err == nil && !found {
		found = in.s.holdsElsewhere(ref.id, ref.size)
	}
	return found, err
}

func (in *Ingest) presentHere(ref objectRef) (bool, error) {
	sh := &in.shards[ref.id[0]]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if absent, err := in.surelyAbsent(sh, ref.id); absent || err != nil {
		return false, err
	}
	size, err := in.s.statObject(ref.id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		sh.misses++
		return false, nil
	case err != nil:
		return false, err
	case size != ref.size:
		in.s.log.Warn("replacing a damaged object", "digest", ref.id.Digest(), "size", size, "expected", ref.size)
		return false, nil
	}
	sh.hits = append(sh.hits, ref)
	return true, nil
}

// surelyAbsent saves a system call for most new objects of a large import: after some
// misses in a directory it is listed once. An object that comes later is missed,
// and then stored a second time, until Publish finds it there.
func (in *Ingest) surelyAbsent(sh *shard, id tree.ObjectID) (bool, error) {
	if sh.names == nil {
		if sh.misses < 3 || sh.misses*listedPerMiss < in.crowd {
			return false, nil
		}
		names, err := in.s.list(fmt.Sprintf("%s/%02x", objectsDir, id[0]))
		if err != nil {
			return false, fmt.Errorf("list objects: %w", err)
		}
		sh.names = make(map[uint64]struct{}, len(names))
		for _, name := range names {
			if key, ok := nameKey(name); ok {
				sh.names[key] = struct{}{}
			}
		}
	}
	key := binary.BigEndian.Uint64(id[1:9])
	_, ok := sh.names[key]
	return !ok, nil
}

// nameKey returns the first eight bytes of an object's file name, decoded.
func nameKey(name string) (uint64, bool) {
	if len(name) != 62 {
		return 0, false
	}
	key, err := strconv.ParseUint(name[:16], 16, 64)
	return key, err == nil
}

// known counts a put that stored nothing.
func (in *Ingest) known(size int64) {
	in.mu.Lock()
	in.stats.Known.count(1, size)
	in.mu.Unlock()
}
