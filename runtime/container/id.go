package container

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// ID names a container for good: 64 hexadecimal digits.
type ID string

const (
	idDigits    = 64
	shortDigits = 12 // what people are shown, as Docker does
)

// NewID returns a random id.
func NewID() ID {
	var b [idDigits / 2]byte
	rand.Read(b[:]) // it never fails
	return ID(hex.EncodeToString(b[:]))
}

// ParseID checks an id from outside.
func ParseID(s string) (ID, error) {
	if len(s) != idDigits || !isHex(s) {
		return "", fmt.Errorf("container id %.80q: want %d hexadecimal digits: %w", s, idDigits, fs.ErrInvalid)
	}
	return ID(s), nil
}

// Short is the beginning of the id that people are shown.
func (id ID) Short() string { return string(id[:min(len(id), shortDigits)]) }

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
