package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

const containersHint = `"layerfs ps -a" lists the names`

// containers opens the containers of the store; the app closes them.
func (a *app) containers(ctx context.Context) (*container.Store, error) {
	if a.ctrs != nil {
		return a.ctrs, nil
	}
	if _, err := a.store(ctx); err != nil {
		return nil, err
	}
	var err error
	a.ctrs, err = container.Open(container.Options{Dir: filepath.Join(a.disk.Root(), "containers"), Lock: a.disk.Lock, Logger: a.logger()})
	return a.ctrs, err
}

// volumes returns the volumes of the store.
func (a *app) volumes(ctx context.Context) (*volume.Store, error) {
	if _, err := a.store(ctx); err != nil {
		return nil, err
	}
	return volume.New(volume.Options{Dir: filepath.Join(a.disk.Root(), "volumes"), Lock: a.disk.Lock})
}

// container finds a container by name, id or the beginning of an id.
func (a *app) container(ctx context.Context, word string) (*container.Store, *container.Container, error) {
	s, err := a.containers(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.Find(ctx, word)
	return s, c, hint(err, containersHint)
}

// containerSnapshot returns the snapshot that the container named stands on, nil when no
// container has that name.
func (a *app) containerSnapshot(ctx context.Context, word string) (*snapshot.Record, error) {
	s, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.Find(ctx, word)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return a.snaps.Stat(ctx, snapshot.Key(c.Snapshot))
}

// eachContainer does the same for every container named, prints its name as it was given
// when done, and goes on after a failure.
func (a *app) eachContainer(ctx context.Context, words []string, do func(context.Context, *container.Store, *container.Container) error) error {
	var errs []error
	for _, word := range words {
		s, c, err := a.container(ctx, word)
		if err == nil {
			err = do(ctx, s, c)
		}
		if err == nil {
			_, err = fmt.Fprintln(a.stdout, word)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *app) containerNames(ctx context.Context) []string {
	s, err := a.containers(ctx)
	if err != nil {
		return nil
	}
	var out []string
	if err := s.Walk(ctx, func(c *container.Container) error { out = append(out, c.Name); return nil }); err != nil {
		return nil
	}
	return out
}

func (a *app) completeContainers(max int) completion { return a.completeWith(max, a.containerNames) }

// ownShorthand lets a command have -v for something of its own, as Docker's do:
// --verbose goes without its letter there.
func (a *app) ownShorthand(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.verbose, "verbose", false, "say on standard error what is done")
}

// removeContainer removes a container that does not run: the snapshot that is its own,
// what is kept of it, and with volumes those that were made for it alone.
func (a *app) removeContainer(ctx context.Context, s *container.Store, c *container.Container, volumes bool) error {
	if c.State.Active() {
		return fmt.Errorf("remove container %s: %w; stop it first, or use --force", c.Name, container.ErrActive)
	}
	if c.Owned {
		key, err := snapshot.ParseKey(c.Snapshot)
		if err != nil {
			return err
		}
		if err := a.snaps.Remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove container %s: %w", c.Name, err)
		}
	}
	// Whoever is killed from here on has said what is to become of its volumes.
	if !volumes {
		if err := a.releaseAnonymous(ctx, c); err != nil {
			return err
		}
	}
	if err := s.Remove(ctx, c.ID); err != nil {
		return err
	}
	s.Emit("destroy", &c.Record, nil)
	if !volumes {
		return nil
	}
	return a.removeAnonymous(ctx, c)
}

// anonymous does something with the volumes that were made for a container alone, while
// nobody comes to need them.
func (a *app) anonymous(ctx context.Context, c *container.Container, do func(vs *volume.Store, names []string) error) (err error) {
	var mine []string
	for _, m := range c.Mounts {
		if m.Kind == container.MountVolume && m.Anonymous {
			mine = append(mine, m.Source)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	vs, err := a.volumes(ctx)
	if err != nil {
		return err
	}
	release, err := vs.Hold(ctx)
	if err != nil {
		return err
	}
	defer join(&err, release)
	return do(vs, mine)
}

// releaseAnonymous lets them outlive it.
func (a *app) releaseAnonymous(ctx context.Context, c *container.Container) error {
	return a.anonymous(ctx, c, func(vs *volume.Store, names []string) error {
		var errs []error
		for _, name := range names {
			if err := vs.Release(name); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// removeAnonymous removes them, unless another container uses them by now.
func (a *app) removeAnonymous(ctx context.Context, c *container.Container) error {
	return a.anonymous(ctx, c, func(vs *volume.Store, names []string) error {
		users, err := a.volumeUsers(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			if len(users[name]) > 0 {
				continue
			}
			if err := vs.Remove(name, nil); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// volumeUsers returns the names of the containers that need each volume.
func (a *app) volumeUsers(ctx context.Context) (map[string][]string, error) {
	s, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	err = s.Walk(ctx, func(c *container.Container) error {
		for _, m := range c.Mounts {
			if m.Kind == container.MountVolume {
				users[m.Source] = append(users[m.Source], c.Name)
			}
		}
		return nil
	})
	return users, err
}
