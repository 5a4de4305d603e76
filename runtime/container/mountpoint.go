package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// MountPoint is a file or directory that a start of a container made in its snapshot to
// mount on. It is no change of the container as long as it is as it was made.
type MountPoint struct {
	Path string    `json:"path"` // absolute, without symbolic links
	Dir  bool      `json:"dir,omitempty"`
	Made time.Time `json:"made"`
}

// AddMountPoints keeps what a start of a container made. A later one of a path counts.
func (s *Store) AddMountPoints(ctx context.Context, id ID, made []MountPoint) (err error) {
	if len(made) == 0 {
		return nil
	}
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	points, err := s.MountPoints(id)
	if err != nil {
		return err
	}
	points = slices.DeleteFunc(points, func(p MountPoint) bool {
		return slices.ContainsFunc(made, func(m MountPoint) bool { return m.Path == p.Path })
	})
	data, err := json.Marshal(append(points, made...))
	if err != nil {
		return err
	}
	return s.write(id, pointsFile, data, false)
}

// MountPoints returns what the starts of a container made.
func (s *Store) MountPoints(id ID) ([]MountPoint, error) {
	data, err := s.read(id, pointsFile, maxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var points []MountPoint
	if err := json.Unmarshal(data, &points); err != nil {
		return nil, fmt.Errorf("parse mount points of container %s: %w: %w", id.Short(), err, fs.ErrInvalid)
	}
	return points, nil
}
