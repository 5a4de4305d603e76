package testimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// form is a form in which an image is kept, named after its file or directory.
type form string

const (
	rawOCI        form = "oci"
	gzipOCI       form = "oci-gzip"
	zstdOCI       form = "oci-zstd"
	dockerArchive form = "docker.tar"
)

// convert makes sure that an image is there in one form and returns its path. Only the
// layout with plain layers is written here; all others are skopeo's work.
func convert(ctx context.Context, dir, name string, f form) (string, error) {
	path := filepath.Join(dir, string(f))
	return once(ctx, path, func(tmp string) error {
		if f == rawOCI {
			return writeLayout(dir, tmp, name)
		}
		if _, err := exec.LookPath("skopeo"); err != nil {
			return fmt.Errorf("converting images needs skopeo (make setup): %w", errors.ErrUnsupported)
		}
		raw, err := convert(ctx, dir, name, rawOCI)
		if err != nil {
			return err
		}
		// Layouts and archives separate what follows by colons: tmp has none.
		args := []string{"--insecure-policy", "--tmpdir", dir, "copy", "--quiet"}
		target := "oci:" + tmp + ":latest"
		if f == dockerArchive {
			target = "docker-archive:" + tmp + ":" + reference(name)
		}
		if f == zstdOCI {
			args = append(args, "--dest-compress", "--dest-compress-format", "zstd")
		}
		return command(ctx, dir, "skopeo", append(args, "oci:"+raw+":latest", target)...)
	})
}

// The documents of the OCI image specification, as far as they are used here.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	runConfig struct {
		Env    []string
		Cmd    []string
		Labels map[string]string
	}
	config struct {
		Created      time.Time `json:"created"`
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       runConfig `json:"config"`
		RootFS       rootFS    `json:"rootfs"`
		History      []history `json:"history"`
	}
)

const ociType = "application/vnd.oci.image."

// writeLayout writes an OCI image layout at path whose layers are links to the tars.
func writeLayout(dir, path, name string) error {
	blobs := filepath.Join(path, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	put := func(mediaType string, doc any) (descriptor, error) {
		data, err := json.Marshal(doc)
		if err != nil {
			return descriptor{}, err
		}
		sum := sha256.Sum256(data)
		hexSum := hex.EncodeToString(sum[:])
		d := descriptor{MediaType: mediaType, Digest: "sha256:" + hexSum, Size: int64(len(data))}
		return d, os.WriteFile(filepath.Join(blobs, hexSum), data, 0o644)
	}
	c := config{
		Created:      epoch().UTC(),
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: runConfig{
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd:    []string{"sh"},
			Labels: map[string]string{"org.opencontainers.image.title": name},
		},
		RootFS: rootFS{Type: "layers"},
	}
	m := manifest{SchemaVersion: 2, MediaType: ociType + "manifest.v1+json"}
	tars, err := filepath.Glob(filepath.Join(dir, "layers", "*.tar"))
	if err != nil {
		return err
	}
	for n, tar := range tars {
		hexSum, size, err := hashFile(tar)
		if err != nil {
			return err
		}
		if err := os.Link(tar, filepath.Join(blobs, hexSum)); err != nil {
			return err
		}
		m.Layers = append(m.Layers, descriptor{MediaType: ociType + "layer.v1.tar", Digest: "sha256:" + hexSum, Size: size})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+hexSum)
		c.History = append(c.History, history{Created: epoch().UTC(), CreatedBy: fmt.Sprintf("layer %d of %s", n, name)})
	}
	if m.Config, err = put(ociType+"config.v1+json", c); err != nil {
		return err
	}
	d, err := put(m.MediaType, m)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": "latest"}
	idx, err := json.Marshal(index{SchemaVersion: 2, MediaType: ociType + "index.v1+json", Manifests: []descriptor{d}})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(path, "index.json"), idx, 0o644),
		os.WriteFile(filepath.Join(path, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// hashFile returns the SHA-256 of a file in hexadecimal, and its size in bytes.
func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
