package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
	"golang.org/x/sys/unix"
)

// interopImage is an image that other tools can read.
type interopImage struct {
	name      string
	archive   func(testing.TB) string // as a docker archive
	extracted func(testing.TB) string
	entries   int
}

// interopImages are the images that all tools read and write; the large one would take
// them minutes. The odd image comes without what the others fail on: Docker, podman and
// umoci refuse sparse files in GNU tar's own format and hard links to files of layers
// below, and the first two cannot save again what has sparse files in other formats.
func interopImages() []interopImage {
	var all []interopImage
	for _, im := range realImages() {
		if im.name != "odd" {
			all = append(all, interopImage{im.name,
				func(t testing.TB) string { return im.get(t).OCIGzip(t) },
				func(t testing.TB) string { return im.get(t).Extracted(t) }, im.entries})
			continue
		}
		layers := func(t testing.TB) []string {
			all := im.get(t).Layers(t)
			return []string{all[0], all[5], all[6]}
		}
		all = append(all, interopImage{im.name,
			func(t testing.TB) string {
				return newArchive(t, "example.org/odd:latest", fileLayers(t, layers(t)...)...)
			},
			func(t testing.TB) string { return testimage.Extract(t, layers(t)...) }, im.entries})
	}
	return all
}

// savedForms are the files that save writes.
type savedForms struct{ docker, oci, dir string }

// saveForms loads an image and saves it in every form.
func (s *store) saveForms(im interopImage) (name string, f savedForms) {
	s.t.Helper()
	name, _ = s.load(im.archive(s.t), "--name", "example.org/"+im.name)
	return name, s.saveAll(name)
}

func (s *store) saveAll(name string) savedForms {
	s.t.Helper()
	out := s.t.TempDir()
	f := savedForms{filepath.Join(out, "docker.tar"), filepath.Join(out, "oci.tar"), filepath.Join(out, "oci")}
	s.ok("save", "--quiet", "--format", "docker", "--output", f.docker, name)
	s.ok("save", "--quiet", "--format", "oci", "--output", f.oci, name)
	s.ok("save", "--quiet", "--output", f.dir+"/", name)
	return f
}

// loadsBack loads what another tool wrote into a store of its own, and compares the id and
// the layers with those of the image that the tool was given.
func (s *store) loadsBack(file, name string) *store {
	s.t.Helper()
	other := newStore(s.t)
	loaded, _ := other.load(file, "--name", strings.TrimSuffix(name, ":latest"))
	wantEqual(s.t, "name of "+filepath.Base(file), loaded, name)
	got, want := other.inspect(name), s.inspect(name)
	wantEqual(s.t, "image id of "+filepath.Base(file), got.ID, want.ID)
	wantEqual(s.t, "chain of "+filepath.Base(file), got.ChainID, want.ChainID)
	return other
}

// skopeo runs a tool that must succeed, with its temporary files in the test's directory.
func skopeo(t testing.TB, args ...string) string {
	t.Helper()
	return testenv.Output(t, "skopeo", append([]string{"--insecure-policy", "--tmpdir", t.TempDir()}, args...)...)
}

// skopeoInspected is what skopeo says of an image.
type skopeoInspected struct {
	Digest string
	Layers []string
	Labels map[string]string
}

// TestInteropSkopeo has skopeo read all that save writes, and load reads what skopeo makes
// of it.
func TestInteropSkopeo(t *testing.T) {
	testenv.Tools(t, "skopeo")
	for _, im := range interopImages() {
		t.Run(im.name, func(t *testing.T) {
			s := newStore(t)
			name, f := s.saveForms(im)
			row, layers := s.image(name), s.inspect(name).Layers
			var blobs, diffIDs []string
			for _, l := range layers {
				blobs, diffIDs = append(blobs, l.Blob), append(diffIDs, l.DiffID)
			}
			tmp := t.TempDir()
			for _, c := range []struct {
				source, digest string
				layers         []string
				transport, to  string // of a copy, for which skopeo verifies every digest
			}{
				{"docker-archive:" + f.docker, "", diffIDs, "docker-archive:", "archive.tar"},
				{"oci-archive:" + f.oci, row.Digest, blobs, "oci:", "layout"},
				{"oci:" + f.dir, row.Digest, blobs, "dir:", "dir"},
			} {
				var got skopeoInspected
				if err := json.Unmarshal([]byte(skopeo(t, "inspect", c.source)), &got); err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "layers of "+c.source, got.Layers, c.layers)
				wantEqual(t, "label of "+c.source, got.Labels["org.opencontainers.image.title"], im.name)
				if c.digest != "" {
					wantEqual(t, "digest of "+c.source, got.Digest, c.digest)
				}
				config := skopeo(t, "inspect", "--raw", "--config", c.source)
				wantEqual(t, "image id of "+c.source, sumOf([]byte(config)), row.ID)

				copied := filepath.Join(tmp, c.to)
				tag := ""
				switch c.transport {
				case "oci:":
					tag = ":latest"
				case "docker-archive:":
					tag = ":" + name
				}
				skopeo(t, "copy", "--quiet", "--preserve-digests", c.source, c.transport+copied+tag)
				s.loadsBack(copied, name)
				if c.transport == "oci:" {
					wantEqual(t, "digest of what was copied", readOCI(t, readArchive(t, copied)).manifest, c.digest)
				}
			}
		})
	}
}

// TestInteropUmoci has umoci unpack what save writes and repack what it changed.
func TestInteropUmoci(t *testing.T) {
	testenv.Root(t)
	testenv.Tools(t, "umoci")
	for _, im := range interopImages() {
		t.Run(im.name, func(t *testing.T) {
			s := newStore(t)
			_, f := s.saveForms(im)
			bundle := filepath.Join(t.TempDir(), "bundle")
			testenv.Output(t, "umoci", "unpack", "--image", f.dir+":latest", bundle)
			root := filepath.Join(bundle, "rootfs")
			o := testimage.CompareOptions{Ignore: umociLoses}
			if n := testimage.CompareTrees(t, root, im.extracted(t), o); n < im.entries {
				t.Errorf("compared %d entries, want at least %d", n, im.entries)
			}
			if im.name != "odd" {
				return // repacking hashes each name of a file anew
			}
			// Repacking keeps whole seconds.
			testenv.Output(t, "sh", "-euc", "cd "+root+`
				mkdir made
				echo new >made/file
				[ -d etc ] || mkdir etc
				echo more >>etc/group
				rm -f etc/passwd
				ln etc/group etc/linked
				touch -d @1500000000 made/file etc/group made etc .`)
			testenv.Output(t, "umoci", "repack", "--image", f.dir+":latest", bundle)
			name, _ := s.load(f.dir, "--name", "example.org/repacked")
			_, dir := s.mount(name)
			testimage.CompareTrees(t, dir, root, o)
		})
	}
}

// umociLoses tells the differences that umoci makes: attributes without a value, and
// times beyond the nanoseconds that 63 bits count.
func umociLoses(path, field string) bool {
	return field == "xattr user.empty" || field == "mtime" && path == "times/2400"
}

// podmanLoses tells the differences that podman makes: a root directory of its own,
// attributes without a value or in the name space of overlayfs, and times before the
// epoch or far after it.
func podmanLoses(path, field string) bool {
	switch field {
	case "xattr user.empty", "xattr trusted.overlay.own":
		return true
	case "mtime":
		return path == "." || path == "gnu/before-epoch" || strings.HasPrefix(path, "times/")
	}
	return path == "."
}

// podman runs podman on a store of its own.
type podman struct {
	t    testing.TB
	args []string
}

func newPodman(t testing.TB) *podman {
	t.Helper()
	testenv.Root(t)
	testenv.Tools(t, "podman")
	dir := shortPlace(t)
	t.Setenv("TMPDIR", t.TempDir())
	p := &podman{t, []string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--storage-driver", "overlay", "--events-backend", "none", "--cgroup-manager", "cgroupfs"}}
	t.Cleanup(func() {
		// The overlay driver keeps its directory mounted on itself.
		for _, m := range testenv.Mounts(t, dir) {
			if err := unix.Unmount(m, 0); err != nil {
				t.Errorf("unmount %s: %v", m, err)
			}
		}
	})
	return p
}

func (p *podman) run(args ...string) string {
	p.t.Helper()
	return strings.TrimSpace(testenv.Output(p.t, "podman", append(p.args[:len(p.args):len(p.args)], args...)...))
}

// TestInteropPodman has podman load what save writes, show it, and save it again.
func TestInteropPodman(t *testing.T) {
	p := newPodman(t)
	for _, im := range interopImages() {
		t.Run(im.name, func(t *testing.T) {
			p := &podman{t, p.args}
			s := newStore(t)
			name, f := s.saveForms(im)
			want := s.image(name)
			for form, file := range map[string]string{"docker-archive": f.docker, "oci-archive": f.oci} {
				p.run("load", "--quiet", "--input", file)
				wantEqual(t, "image id in podman", "sha256:"+p.run("image", "inspect", "--format", "{{.Id}}", name), want.ID)
				if form == "oci-archive" {
					wantEqual(t, "digest in podman", p.run("image", "inspect", "--format", "{{.Digest}}", name), want.Digest)
				}
				dir := p.run("image", "mount", name)
				testimage.CompareTrees(t, dir, im.extracted(t), testimage.CompareOptions{Ignore: podmanLoses})
				p.run("image", "unmount", name)
				back := filepath.Join(t.TempDir(), form)
				p.run("save", "--quiet", "--format", form, "--output", back, name)
				s.loadsBack(back, name)
				p.run("rmi", name)
			}
		})
	}
}

// TestInteropDocker has Docker load what save writes, show it, and save it again.
func TestInteropDocker(t *testing.T) {
	d := startDocker(t)
	for _, im := range interopImages() {
		t.Run(im.name, func(t *testing.T) {
			d := d.in(t)
			s := newStore(t)
			name, f := s.saveForms(im)
			d.takes(s, f.docker, name)
			back := filepath.Join(t.TempDir(), "saved.tar")
			d.run("save", "--output", back, name)
			other := s.loadsBack(back, name)
			_, dir := other.mount(name)
			testimage.CompareTrees(t, dir, im.extracted(t), testimage.CompareOptions{})
		})
	}
}

// takes loads an archive into Docker and compares id and layers.
func (d *docker) takes(s *store, archive, name string) {
	d.t.Helper()
	d.run("load", "--quiet", "--input", archive)
	var layers []string
	im := s.inspect(name)
	for _, l := range im.Layers {
		layers = append(layers, l.DiffID)
	}
	wantEqual(d.t, "image id in docker", d.run("image", "inspect", "--format", "{{.Id}}", name), im.ID)
	wantEqual(d.t, "layers in docker", strings.Fields(d.run("image", "inspect", "--format", "{{join .RootFS.Layers \" \"}}", name)), layers)
}
