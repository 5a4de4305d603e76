package main

import (
	"context"
	"os"
	"strings"

	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

type completion func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// completeWith completes the first max arguments, or all when max is negative, and
// leaves what comes after to the shell.
func (a *app) completeWith(max int, list func(context.Context) []string) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if max >= 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var out []string
		if !a.hasStore() {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for _, name := range list(cmd.Context()) {
			if strings.HasPrefix(name, word) {
				out = append(out, name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// hasStore reports whether there is a store; completing a word must not make one.
func (a *app) hasStore() bool {
	root, err := a.storeRoot()
	if err != nil {
		return false
	}
	_, err = os.Stat(root)
	return err == nil
}

// Completion offers what it can: an error is no help to somebody who is typing.

func (a *app) imageNames(ctx context.Context) []string {
	store, err := a.imageStore(ctx)
	if err != nil {
		return nil
	}
	refs, err := store.Refs(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, r := range refs {
		out = append(out, r.String())
	}
	return out
}

func (a *app) snapshotNames(ctx context.Context) []string {
	s, err := a.store(ctx)
	if err != nil {
		return nil
	}
	var out []string
	err = s.Walk(ctx, func(r *snapshot.Record) error {
		if r.Kind != snapshot.Sealed {
			out = append(out, string(r.Key))
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}

func (a *app) completeImages(max int) completion { return a.completeWith(max, a.imageNames) }

func (a *app) completeSnapshots(max int) completion { return a.completeWith(max, a.snapshotNames) }

func (a *app) completeImagesAndSnapshots(max int) completion {
	return a.completeWith(max, func(ctx context.Context) []string {
		return append(a.snapshotNames(ctx), a.imageNames(ctx)...)
	})
}
