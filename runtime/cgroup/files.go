package cgroup

import (
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxFile limits what is read of a file of counters, in bytes.
const maxFile = 1 << 20

// write writes a file of a group in one system call, which is how the kernel wants it.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(b)) > limit {
		return "", fmt.Errorf("read %s: more than %d bytes: %w", path, limit, fs.ErrInvalid)
	}
	return string(b), nil
}

// readShort reads a file that may be missing, which is as if it were empty.
func readShort(path string) string {
	text, err := readLimited(path, maxFile)
	if err != nil {
		return ""
	}
	return text
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
