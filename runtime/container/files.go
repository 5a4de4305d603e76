package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/layerfs/layerfs/internal/durable"
)

// WriteSpec keeps the specification that a container is started with.
func (s *Store) WriteSpec(id ID, data []byte) error { return s.write(id, specFile, data, false) }

// ReadSpec returns what WriteSpec kept.
func (s *Store) ReadSpec(id ID) ([]byte, error) { return s.read(id, specFile, maxRecordBytes) }

// write replaces a file of a container. The lock of the container is held, but where
// only one process can know it.
func (s *Store) write(id ID, name string, data []byte, flush bool) error {
	dir := string(id) + "/"
	temp := dir + name + tempFile
	err := durable.Create(s.root, temp, 0o600, data, flush)
	if errors.Is(err, fs.ErrExist) {
		// Of a process that was killed while it wrote.
		if err := s.root.Remove(temp); err != nil {
			return err
		}
		err = durable.Create(s.root, temp, 0o600, data, flush)
	}
	if err != nil {
		return err
	}
	if err := s.root.Rename(temp, dir+name); err != nil || !flush {
		return err
	}
	return durable.SyncDir(s.root, string(id))
}

func (s *Store) read(id ID, name string, limit int64) (_ []byte, err error) {
	if _, err := ParseID(string(id)); err != nil {
		return nil, err
	}
	f, err := s.root.Open(string(id) + "/" + name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s of more than %d bytes: %w", name, limit, fs.ErrInvalid)
	}
	return data, err
}
