package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
)

// maxName is the length of a name in bytes, well below what a file name may have.
const maxName = 128

// ParseName checks a name from outside: as Docker has it, 2 or more of letters, digits,
// '_', '.' and '-', beginning with a letter or a digit. A leading '/', which Docker's own
// output has, is no part of it. 64 hexadecimal digits are an id and no name.
func ParseName(s string) (string, error) {
	if len(s) > 0 && s[0] == '/' {
		s = s[1:]
	}
	ok := len(s) > 1 && len(s) <= maxName && (len(s) != idDigits || !isHex(s))
	for i := 0; ok && i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '.', c == '-':
			ok = i > 0
		default:
			ok = false
		}
	}
	if !ok {
		return "", fmt.Errorf("container name %.140q: want a letter or digit, then 1 to %d of letters, digits, '_', '.', '-': %w", s, maxName-1, fs.ErrInvalid)
	}
	return s, nil
}

// randomName returns a name for a container that was given none: an adjective and a
// surname of somebody who built, measured or computed. From the tries at which the plain
// ones seem to be taken, a number makes it longer.
func randomName(try int) string {
	adjectives := [...]string{
		"able", "amber", "ample", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "clever",
		"cosy", "crisp", "curious", "daring", "deft", "eager", "early", "earnest", "fair", "fleet", "fond",
		"frank", "gentle", "glad", "golden", "handy", "hardy", "honest", "keen", "kind", "lively", "lucid",
		"mellow", "merry", "mild", "modest", "neat", "nimble", "patient", "placid", "plucky", "polite",
		"proud", "quick", "quiet", "rapid", "ready", "robust", "sage", "serene", "sharp", "silver", "simple",
		"smooth", "snug", "sober", "solid", "spry", "steady", "sturdy", "subtle", "sunny", "swift", "tidy",
		"tranquil", "trusty", "vivid", "warm", "wise", "witty", "zesty",
	}
	surnames := [...]string{
		"abel", "agnesi", "ampere", "archimedes", "babbage", "banneker", "bell", "bernoulli", "bohr", "boole",
		"brahe", "brunel", "cantor", "cauchy", "cerf", "church", "conway", "copernicus", "curie", "darwin",
		"dijkstra", "dirac", "eckert", "edison", "eiffel", "erdos", "euclid", "euler", "faraday", "fermat",
		"fermi", "fourier", "franklin", "galilei", "galois", "gauss", "germain", "goedel", "gray", "hamming",
		"herschel", "hertz", "hilbert", "hopper", "huygens", "hypatia", "joule", "kay", "kepler", "khayyam",
		"kilby", "knuth", "kovalevskaya", "lamarr", "laplace", "leavitt", "leibniz", "lovelace", "mauchly",
		"maxwell", "mccarthy", "meitner", "mendel", "moore", "morse", "napier", "newton", "nightingale",
		"noether", "ohm", "pascal", "perlman", "planck", "ptolemy", "ramanujan", "ritchie", "shannon",
		"sinclair", "stokes", "tesla", "thompson", "turing", "volta", "watt", "wiles", "wirth", "zuse",
	}
	const plain = 6
	name := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
	if try >= plain {
		name += strconv.Itoa(rand.IntN(1_000_000))
	}
	return name
}

// name takes the record's name, or one made up. The names are locked.
func (s *Store) name(rec *Record) error {
	if rec.Name != "" {
		name, err := ParseName(rec.Name)
		if err != nil {
			return err
		}
		rec.Name = name
		return s.take(name, rec.ID)
	}
	const tries = 100
	var err error
	for i := range tries {
		rec.Name = randomName(i)
		if err = s.take(rec.Name, rec.ID); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return err
}

func (s *Store) take(name string, id ID) error {
	link := namesDir + "/" + name
	err := s.root.Symlink(string(id), link)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	other, err := s.taken(name)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("the name %s is taken by container %s: %w", name, other.Short(), fs.ErrExist)
	}
	// Of a container that was removed, renamed or never finished when its command was
	// killed.
	if err := s.root.Remove(link); err != nil {
		return err
	}
	return s.root.Symlink(string(id), link)
}

// taken returns the container that has a name, "" when there is none: a link whose
// container is not there or has another name is a leftover.
func (s *Store) taken(name string) (ID, error) {
	target, err := s.root.Readlink(namesDir + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id, err := ParseID(target)
	if err != nil {
		return "", nil //nolint:nilerr // it leads to no container
	}
	rec, err := s.record(id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && rec.Name != name {
		return "", nil
	}
	return id, nil // a damaged record keeps its name until it is removed
}

// Rename gives a container another name; one that is taken wraps fs.ErrExist.
func (s *Store) Rename(ctx context.Context, id ID, name string) (err error) {
	name, err = ParseName(name)
	if err != nil {
		return err
	}
	unlock, err := s.lockNames(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	rec, err := s.record(id)
	if err != nil {
		return fmt.Errorf("container %s: %w", id.Short(), err)
	}
	if rec.Name == name {
		return fmt.Errorf("the container has the name %s already: %w", name, fs.ErrExist)
	}
	if err := s.take(name, id); err != nil {
		return fmt.Errorf("rename container %s: %w", rec.Name, err)
	}
	// A cut before this leaves the old name, and the new link as a leftover; after it,
	// the other way round.
	if err := s.Update(ctx, id, func(r *Record) error { r.Name = name; return nil }); err != nil {
		return errors.Join(err, s.unname(name))
	}
	return s.unname(rec.Name)
}

func (s *Store) unname(name string) error {
	err := s.root.Remove(namesDir + "/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
