package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/layerfs/layerfs/tarstream/compress"
)

// sameArchives compares two image archives of any form: the configurations must name the
// same layers, and each archive must have files that are those layers, compressed or not.
func sameArchives(got, want string) error {
	a, err := layersOf(got)
	if err != nil {
		return err
	}
	b, err := layersOf(want)
	if err != nil {
		return err
	}
	if !slices.Equal(a, b) {
		return fmt.Errorf("%s has layers %v, %s %v", got, a, want, b)
	}
	return nil
}

// layersOf returns the DiffIDs that the only configuration in an archive names, all of
// which the archive has.
func layersOf(name string) (diffIDs []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	has := map[string]bool{}
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		r := bufio.NewReaderSize(t, 1<<20)
		if start, _ := r.Peek(1); bytes.Equal(start, []byte("{")) {
			var config struct {
				RootFS struct {
					DiffIDs []string `json:"diff_ids"`
				} `json:"rootfs"`
			}
			if err := json.NewDecoder(r).Decode(&config); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, h.Name, err)
			}
			if len(config.RootFS.DiffIDs) > 0 {
				diffIDs = config.RootFS.DiffIDs
			}
			continue
		}
		sum, err := sumOf(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, h.Name, err)
		}
		has[sum] = true
	}
	for _, id := range diffIDs {
		if !has[id] {
			return nil, fmt.Errorf("%s has no layer %s", name, id)
		}
	}
	if diffIDs == nil {
		return nil, fmt.Errorf("%s has no configuration with layers", name)
	}
	return diffIDs, nil
}

func sumOf(r io.Reader) (string, error) {
	z, _, err := compress.NewReader(r, compress.Limits{})
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, z)
	return fmt.Sprintf("sha256:%x", h.Sum(nil)), errors.Join(err, z.Close())
}
