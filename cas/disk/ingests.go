package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// ownerFile is the file in an ingest directory that its process keeps locked. It holds
// lines of two words: "pid" and "started" with a number, the latter in seconds since the
// epoch, and "keep" with the quoted path of a record.
const ownerFile = "owner"

// maxOwner is the size of an owner file in bytes, enough for some ten thousand records.
const maxOwner = 1 << 20

// IngestInfo describes a directory below ingest/.
type IngestInfo struct {
	ID      string
	Live    bool      // its process has it open
	PID     int       // as its process saw itself; 0 when unknown
	Started time.Time // zero when unknown
	// Kept are the records that the ingest has published or relies on. Those of a live
	// ingest are roots.
	Kept []string
}

// parseOwner reads an owner file. A last line without its end, which may be being
// written, is passed over. Anything else that does not fit wraps fs.ErrInvalid.
func parseOwner(b []byte) (info IngestInfo, err error) {
	if len(b) > maxOwner {
		return info, fmt.Errorf("owner file of more than %d bytes: %w", maxOwner, fs.ErrInvalid)
	}
	text := string(b[:strings.LastIndexByte(string(b), '\n')+1])
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "pid":
			info.PID, err = strconv.Atoi(value)
		case "started":
			var sec int64
			sec, err = strconv.ParseInt(value, 10, 64)
			info.Started = time.Unix(sec, 0)
		case "keep":
			var rel string
			if rel, err = strconv.Unquote(value); err == nil {
				err = checkRecord(rel)
			}
			info.Kept = append(info.Kept, rel)
		default:
			err = fs.ErrInvalid
		}
		if err != nil {
			return IngestInfo{}, fmt.Errorf("owner file, line %.100q: %w: %w", line, err, fs.ErrInvalid)
		}
	}
	return info, nil
}

// note names a record in the owner file. The caller holds mu, and the shared store lock.
func (in *Ingest) note(rel string) error {
	if in.kept[rel] {
		return nil
	}
	line := "keep " + strconv.Quote(rel) + "\n"
	if in.noted += len(line); in.noted > maxOwner-256 {
		return fmt.Errorf("ingest %s: too many records: %w", in.id, fs.ErrInvalid)
	}
	if _, err := in.owner.WriteString(line); err != nil {
		return err
	}
	in.kept[rel] = true
	return nil
}

// Keep makes an existing record a root, and Publish checks that it exists, until the
// ingest is closed. The error wraps fs.ErrNotExist when there is none. A record in
// quarantine counts as none: what it names may be there too, or deleted already, so that
// bringing it back alone would make a record of what is missing.
func (in *Ingest) Keep(ctx context.Context, rel string) (err error) {
	if err := checkRecord(rel); err != nil {
		return fmt.Errorf("keep record: %w", err)
	}
	in.gate.RLock()
	defer in.gate.RUnlock()
	if err := in.usable(ctx); err != nil {
		return fmt.Errorf("keep record %s: %w", rel, err)
	}
	unlock, err := in.s.Share(ctx)
	if err != nil {
		return fmt.Errorf("keep record %s: %w", rel, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.keep(ctx, rel); err != nil {
		return fmt.Errorf("keep record %s: %w", rel, err)
	}
	return nil
}

func (in *Ingest) keep(ctx context.Context, rel string) error {
	if !in.s.holds(rel, -1) {
		return fs.ErrNotExist
	}
	if err := in.note(rel); err != nil {
		return err
	}
	in.found = append(in.found, rel)
	return in.count(ctx, &usageRecord{})
}

// Ingests returns all directories below ingest/, of live and of dead ingests, in order of
// their names.
func (s *Store) Ingests(ctx context.Context) (_ []IngestInfo, err error) {
	unlock, err := s.lockIngests(ctx, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	names, err := s.list(ingestDir)
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	slices.Sort(names)
	var infos []IngestInfo
	for _, name := range names {
		fi, err := s.root.Lstat(ingestDir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list ingests: %w", err)
		}
		owner, err := s.claimDead(name, unix.LOCK_SH)
		if err != nil && !errors.Is(err, errLive) {
			return nil, fmt.Errorf("list ingests: %w", err)
		}
		info := IngestInfo{}
		if b, rerr := s.readLimited(ingestDir+"/"+name+"/"+ownerFile, maxOwner); rerr == nil {
			// A dead one may have been cut short by a power cut; nothing hangs on it.
			if info, rerr = parseOwner(b); rerr != nil && err != nil {
				return nil, fmt.Errorf("list ingests: live ingest %s: %w", name, rerr)
			}
		}
		info.ID, info.Live = name, err != nil
		infos = append(infos, info)
		if owner != nil {
			if err := owner.Close(); err != nil {
				return nil, fmt.Errorf("list ingests: %w", err)
			}
		}
	}
	return infos, nil
}

// lockIngests locks the ingest directory. With unix.LOCK_EX it waits until no ingest is half
// begun and no record or memo is being written, and keeps it so; who writes one has
// unix.LOCK_SH.
func (s *Store) lockIngests(ctx context.Context, how int) (unlock func() error, err error) {
	dir, err := s.root.Open(ingestDir)
	if err != nil {
		return nil, err
	}
	return waitLock(ctx, dir, flockOf(how))
}

// errLive says that the process of an ingest lives.
var errLive = fmt.Errorf("the ingest is in use: %w", fs.ErrPermission)

// claimDead locks the owner file of a dead ingest, and returns it for the caller to
// close, or nil when there is none. For a live one the error is errLive. The caller has
// locked the ingests.
func (s *Store) claimDead(id string, how int) (*os.File, error) {
	f, err := s.root.Open(ingestDir + "/" + id + "/" + ownerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		if wouldBlock(err) {
			err = errLive
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// CleanIngest removes what a dead ingest left. For a live one the error wraps
// fs.ErrPermission, for one that does not exist fs.ErrNotExist. It needs no free space.
func (s *Store) CleanIngest(ctx context.Context, id string) error {
	if err := s.cleanIngest(ctx, id); err != nil {
		return fmt.Errorf("clean ingest %.64q: %w", id, err)
	}
	return nil
}

func (s *Store) cleanIngest(ctx context.Context, id string) (err error) {
	if err := s.writable(); err != nil {
		return err
	}
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00") {
		return fs.ErrInvalid
	}
	unlock, err := s.lockIngests(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	owner, err := s.claimDead(id, unix.LOCK_EX)
	if err == nil {
		_, err = s.root.Lstat(ingestDir + "/" + id)
	}
	// The owner's lock is ours now, so the rest may take its time.
	err = errors.Join(err, unlock())
	if owner != nil {
		defer func() { err = errors.Join(err, owner.Close()) }()
	}
	if err != nil {
		return err
	}
	if err := s.settle(ctx, id); err != nil {
		return err
	}
	return s.root.RemoveAll(ingestDir + "/" + id)
}

// CleanIngests removes what all dead ingests left, and returns how many there were.
func (s *Store) CleanIngests(ctx context.Context) (n int, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	infos, err := s.Ingests(ctx)
	if err != nil {
		return 0, err
	}
	for _, info := range infos {
		if info.Live {
			continue
		}
		err := s.CleanIngest(ctx, info.ID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errLive) {
			continue // another process is at it
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, s.cleanTemps(ctx)
}

// cleanTemps removes what writers of records left.
func (s *Store) cleanTemps(ctx context.Context) (err error) {
	unlock, err := s.lockIngests(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return s.walk(ctx, ingestDir, 1, func(rel string, _ fileStat) error {
		return s.root.Remove(rel)
	})
}

// marked reports whether an ingest directory has the mark of being published.
func (s *Store) marked(id string, marks ...string) bool {
	return slices.ContainsFunc(marks, func(mark string) bool {
		_, err := s.root.Lstat(ingestDir + "/" + id + "/" + mark)
		return err == nil
	})
}

// settle ends the publication that a dead ingest was in the middle of: what it has moved
// into place becomes durable, and the sums are marked as not exact.
func (s *Store) settle(ctx context.Context, id string) error {
	if !s.marked(id, publishingFile, movingFile) {
		return nil
	}
	f, err := durable.NewFlusher(s.root, s.opts.NoSync)
	if err != nil {
		return err
	}
	if err := errors.Join(f.FlushAll(ctx), f.Close()); err != nil {
		return err
	}
	err = s.changeUsage(ctx, true, func(r *usageRecord) error {
		r.Unsure++
		return nil
	})
	if err != nil {
		return err
	}
	for _, mark := range [...]string{publishingFile, movingFile} {
		// After a power cut on a file system without a journal it may be anything.
		if err := s.root.RemoveAll(ingestDir + "/" + id + "/" + mark); err != nil {
			return err
		}
	}
	return nil
}

// unsettled reports whether another ingest than self is moving things into place, or
// died while it did.
func (s *Store) unsettled(self string) (bool, error) {
	names, err := s.list(ingestDir)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return name != self && s.marked(name, movingFile)
	}), nil
}

// tornIngests returns the dead ingests that were in the middle of publishing.
func (s *Store) tornIngests(ctx context.Context) ([]string, error) {
	names, err := s.list(ingestDir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return !s.marked(name, publishingFile, movingFile)
	})
	if len(names) == 0 {
		return nil, nil
	}
	infos, err := s.Ingests(ctx)
	if err != nil {
		return nil, err
	}
	var torn []string
	for _, info := range infos {
		if !info.Live && slices.Contains(names, info.ID) {
			torn = append(torn, info.ID)
		}
	}
	return torn, nil
}

// settleTorn settles all dead ingests.
func (s *Store) settleTorn(ctx context.Context) error {
	torn, err := s.tornIngests(ctx)
	if err != nil {
		return err
	}
	for _, id := range torn {
		if err := s.settle(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
