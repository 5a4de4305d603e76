package archive

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/tarstream/compress"
	"github.com/opencontainers/go-digest"
)

// tool runs a program of another project, and skips the test where it is missing.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	return tool(t, "skopeo", append([]string{"--insecure-policy"}, args...)...)
}

// layoutDir writes an OCI layout with one image, the source of what tools write.
func layoutDir(t *testing.T, f *fixture, name string) string {
	t.Helper()
	l := newLayout()
	l.name(l.image(f), "org.opencontainers.image.ref.name", name)
	dir := filepath.Join(t.TempDir(), "layout")
	for name, body := range l.files() {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestLoadSkopeo loads what skopeo writes in each of its forms.
func TestLoadSkopeo(t *testing.T) {
	// This skopeo does not convert zstd layers to Docker's form, so there is none.
	f := newFixture("one", "amd64", compress.Gzip, compress.Gzip, compress.None)
	src := "oci:" + layoutDir(t, f, "v1") + ":v1"
	for _, c := range []struct {
		name, dest string
		flags      []string
	}{
		{"docker-archive", "docker-archive:%:registry.example/one:v1", nil},
		{"oci-archive", "oci-archive:%:registry.example/one:v1", nil},
		{"oci-archive tag", "oci-archive:%:v1", nil},
		{"oci", "oci:%:v1", nil},
		{"dir", "dir:%", nil},
		{"dir docker", "dir:%", []string{"--format", "v2s2"}},
		{"dir gzip", "dir:%", []string{"--dest-compress", "--dest-compress-format", "gzip"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			skopeo(t, slices.Concat([]string{"copy"}, c.flags, []string{src, strings.Replace(c.dest, "%", out, 1)})...)
			w := newWorld(t)
			if _, err := Load(t.Context(), w.store, w.layers, out, LoadOptions{Name: ref("registry.example/one:v1")}); err != nil {
				t.Fatal(err)
			}
			im, err := w.store.Resolve(t.Context(), "registry.example/one:v1", nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, d := range im.DiffIDs() {
				if !bytes.Equal(w.tar(t, d), f.tars[i]) {
					t.Errorf("layer %d differs", i+1)
				}
			}
			if len(im.DiffIDs()) != 3 {
				t.Errorf("%d layers", len(im.DiffIDs()))
			}
		})
	}
}

// TestToolsAccept has skopeo, umoci and podman read what Save writes.
func TestToolsAccept(t *testing.T) {
	f := newFixture("one", "amd64", compress.Gzip, compress.None, compress.Zstd)
	plain := newFixture("plain", "amd64", compress.Gzip, compress.None)
	l := newLayout()
	d := l.image(f)
	l.name(d, "io.containerd.image.name", "registry.example/one:v1")
	l.name(l.image(plain), "io.containerd.image.name", "registry.example/plain:v1")
	w := loaded(t, l.files(), LoadOptions{})
	write := func(t *testing.T, o SaveOptions, words ...string) string {
		data, _ := w.save(t, o, words...)
		name := filepath.Join(t.TempDir(), "saved.tar")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	inspect := func(t *testing.T, src string) (digest.Digest, []string) {
		var got struct {
			Digest digest.Digest
			Layers []string
		}
		if err := json.Unmarshal([]byte(skopeo(t, "inspect", src)), &got); err != nil {
			t.Fatal(err)
		}
		return got.Digest, got.Layers
	}
	t.Run("skopeo oci-archive", func(t *testing.T) {
		name := write(t, SaveOptions{}, "registry.example/one:v1")
		if got, _ := inspect(t, "oci-archive:"+name); got != d.Digest {
			t.Errorf("manifest %s, saved %s", got, d.Digest)
		}
		skopeo(t, "copy", "oci-archive:"+name+":v1", "dir:"+filepath.Join(t.TempDir(), "dir"))
	})
	t.Run("skopeo docker-archive", func(t *testing.T) {
		name := write(t, SaveOptions{Format: Docker}, "registry.example/one:v1", "registry.example/plain:v1")
		_, layers := inspect(t, "docker-archive:"+name+":registry.example/one:v1")
		for i, got := range layers {
			if got != string(digest.FromBytes(f.tars[i])) {
				t.Errorf("layer %d is %s", i+1, got)
			}
		}
		skopeo(t, "copy", "docker-archive:"+name+":registry.example/plain:v1", "oci:"+filepath.Join(t.TempDir(), "oci")+":x")
	})
	t.Run("skopeo docker-archive of an OCI archive", func(t *testing.T) {
		// An OCI archive has a manifest.json for old versions of Docker.
		name := write(t, SaveOptions{}, "registry.example/plain:v1")
		if _, layers := inspect(t, "docker-archive:"+name); len(layers) != 2 {
			t.Errorf("layers %v", layers)
		}
	})
	t.Run("skopeo of the store", func(t *testing.T) {
		// Only what is a blob can be read there: the manifest can in any case.
		root := filepath.Join(w.dir, "store")
		var m image.Config
		raw := skopeo(t, "inspect", "--raw", "oci:"+root+":registry.example/one:v1")
		if err := json.Unmarshal([]byte(raw), &m); err != nil || digest.FromString(raw) != d.Digest {
			t.Errorf("manifest %s: %v", raw, err)
		}
	})
	t.Run("umoci", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("unpacking with owners needs root")
		}
		g := newFixture("gz", "amd64", compress.Gzip, compress.None)
		l := newLayout()
		l.name(l.image(g), "io.containerd.image.name", "gz:v1")
		w := loaded(t, l.files(), LoadOptions{})
		dir := filepath.Join(t.TempDir(), "layout")
		items, err := Select(t.Context(), w.store, []string{"gz:v1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := SaveDir(t.Context(), w.store, w.layers, dir, items, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		bundle := filepath.Join(t.TempDir(), "bundle")
		tool(t, "umoci", "unpack", "--image", dir+":v1", bundle)
		body, err := os.ReadFile(filepath.Join(bundle, "rootfs", "etc", "gz"))
		if err != nil || string(body) != strings.Repeat("gzb", 2000) {
			t.Errorf("unpacked file has %d bytes: %v", len(body), err)
		}
	})
	t.Run("podman", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("a podman store apart from the user's needs root")
		}
		dir := testenv.ShortDir(t)
		podman := func(args ...string) string {
			return tool(t, "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
		}
		for _, o := range []SaveOptions{{}, {Format: Docker}} {
			name := write(t, o, "registry.example/plain:v1")
			podman("load", "-q", "-i", name)
			if got := strings.TrimSpace(podman("image", "inspect", "--format", "{{.Id}}", "registry.example/plain:v1")); got != digest.FromBytes(plain.config).Encoded() {
				t.Errorf("%v: image has the id %s", o.Format, got)
			}
			// And back what podman saves of it.
			for _, format := range []string{"oci-archive", "docker-archive", "oci-dir", "docker-dir"} {
				out := filepath.Join(t.TempDir(), "out")
				podman("save", "-q", "--format", format, "-o", out, "registry.example/plain:v1")
				back := newWorld(t)
				if _, err := Load(t.Context(), back.store, back.layers, out, LoadOptions{Name: ref("registry.example/plain:v1")}); err != nil {
					t.Fatalf("%s: %v", format, err)
				}
				im, err := back.store.Resolve(t.Context(), "registry.example/plain:v1", nil)
				if err != nil || len(im.DiffIDs()) != 2 || !bytes.Equal(back.tar(t, im.DiffIDs()[1]), plain.tars[1]) {
					t.Errorf("%s: %v", format, err)
				}
			}
			podman("rmi", "registry.example/plain:v1")
		}
	})
}
