package tarstream

import (
	"fmt"
	"io/fs"
)

// EntryError says which member of a tar an error is about.
type EntryError struct {
	Name   string // as the tar has it; "" when the header could not be read that far
	After  string // the member before, when Name is ""
	Offset int64  // of the member's first header block, in bytes
	Err    error
}

func (e *EntryError) Error() string {
	switch {
	case e.Name != "":
		return fmt.Sprintf("tar entry %q at offset %d: %v", e.Name, e.Offset, e.Err)
	case e.After != "":
		return fmt.Sprintf("tar entry after %q at offset %d: %v", e.After, e.Offset, e.Err)
	default:
		return fmt.Sprintf("tar entry at offset %d: %v", e.Offset, e.Err)
	}
}

// Unwrap returns the error without the member.
func (e *EntryError) Unwrap() error { return e.Err }

// invalid makes an error of the class fs.ErrInvalid.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), fs.ErrInvalid)
}
