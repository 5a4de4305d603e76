package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// DiffID names a layer: the SHA-256 of its uncompressed tar.
type DiffID digest.Digest

// ChainID names a stack of layers, as the OCI image specification defines it: the
// DiffID of a single layer, else the SHA-256 of the chain below, a space, and the
// DiffID on top.
type ChainID digest.Digest

// ParseDiffID checks a DiffID from outside. Only SHA-256 is accepted: it is what every
// image in use has, and what the recipe's name is made from.
func ParseDiffID(s string) (DiffID, error) {
	// Without the regular expression of digest.Parse: deep stacks are checked at every
	// mount, and several times.
	if digits, ok := strings.CutPrefix(s, "sha256:"); ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == "" {
		return DiffID(s), nil
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("parse diff id %q: %w: %w", s, err, fs.ErrInvalid)
	}
	if d.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("parse diff id %q: algorithm %s, only sha256 is supported: %w", s, d.Algorithm(), fs.ErrInvalid)
	}
	return DiffID(d), nil
}

// String returns "sha256:<hex>".
func (d DiffID) String() string { return string(d) }

func (d DiffID) hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// String returns "sha256:<hex>".
func (c ChainID) String() string { return string(c) }

func (c ChainID) hex() string { return strings.TrimPrefix(string(c), "sha256:") }

// Chain returns the ChainIDs of every prefix of layers, which are given bottom first:
// the last is the id of the whole stack.
func Chain(layers []DiffID) []ChainID {
	chain := make([]ChainID, len(layers))
	var text []byte
	for i, d := range layers {
		if i == 0 {
			chain[i] = ChainID(d)
			continue
		}
		text = append(append(append(text[:0], chain[i-1]...), ' '), d...)
		sum := sha256.Sum256(text)
		chain[i] = ChainID(hex.AppendEncode(append(text[:0], "sha256:"...), sum[:]))
	}
	return chain
}

// Key names a snapshot: 1 to 128 of letters, digits, '_', '.', '-', beginning with a
// letter or a digit, as Docker restricts container names.
type Key string

const maxKey = 128 // bytes

// ParseKey checks a name from outside.
func ParseKey(s string) (Key, error) {
	ok := len(s) > 0 && len(s) <= maxKey
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
		return "", fmt.Errorf("snapshot name %q: want a letter or digit, then up to 127 of letters, digits, '_', '.', '-': %w", s, fs.ErrInvalid)
	}
	return Key(s), nil
}

// NewKey returns an unused-looking name for a snapshot: word is a prefix that tells a
// reader where it came from.
func NewKey(word string, random [4]byte) Key {
	word = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, strings.ToLower(word))
	if len(word) > 40 {
		word = word[:40]
	}
	word = strings.Trim(word, "-_")
	if word == "" {
		word = "snapshot"
	}
	return Key(fmt.Sprintf("%s-%x", word, random))
}
