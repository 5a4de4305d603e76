package main

import (
	"slices"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
)

// realImages are the small images, and how many entries and layers each has at least, so
// that a comparison of nothing does not pass.
func realImages() []realImage {
	return []realImage{
		{"busybox", testimage.Busybox, 200, 1},
		{"minbase", testimage.Minbase, 6_000, 1},
		{"odd", testimage.Odd, 10_000, 8},
	}
}

type realImage struct {
	name    string
	get     func(testing.TB) *testimage.Image
	entries int
	layers  int
}

// imageForm is a form in which an image travels.
type imageForm struct {
	name   string
	get    func(*testimage.Image, testing.TB) string
	docker bool
}

var (
	dockerArchive = imageForm{"docker-archive", (*testimage.Image).DockerArchive, true}
	ociPlain      = imageForm{"oci", (*testimage.Image).OCI, false}
	ociGzip       = imageForm{"oci-gzip", (*testimage.Image).OCIGzip, false}
	ociZstd       = imageForm{"oci-zstd", (*testimage.Image).OCIZstd, false}
)

func imageForms() []imageForm { return []imageForm{dockerArchive, ociPlain, ociGzip, ociZstd} }

func (f imageForm) read(t testing.TB, members map[string]member) savedImage {
	t.Helper()
	if f.docker {
		return readDocker(t, members)
	}
	return readOCI(t, members)
}

// TestMountShowsWhatTarExtracts loads every image in every form and compares the mount
// with what GNU tar extracts: types, modes, owners, times, attributes, link counts and
// contents. Trees and the kernel's overlayfs agree with it in every entry, the root
// directory included, so nothing is left out of the comparison. What is saved again has
// the digests of what came.
func TestMountShowsWhatTarExtracts(t *testing.T) {
	testenv.Root(t)
	for _, im := range realImages() {
		for _, form := range imageForms() {
			t.Run(im.name+"/"+form.name, func(t *testing.T) {
				img := im.get(t)
				s := newStore(t)
				name := s.loadForm(img, form)
				s.showsWhatTarExtracts(img, name, im.entries)
				s.savesWhatCame(form, form.get(img, t), name, im.layers)
			})
		}
	}
}

// TestLargeImageInAllForms does the same with a large image and loads all forms into one
// store: they are the same layers, which compressed forms do not tell before they are
// read.
func TestLargeImageInAllForms(t *testing.T) {
	testenv.Root(t)
	img := testimage.Layered(t)
	s := newStore(t)
	var first inspected
	for i, form := range []imageForm{ociGzip, ociZstd, ociPlain, dockerArchive} {
		name := s.loadForm(img, form)
		if i == 0 {
			first = s.inspect(name)
			s.showsWhatTarExtracts(img, name, 50_000)
		}
		wantEqual(t, "layers stacked", s.inspect(name).ChainID, first.ChainID)
		s.savesWhatCame(form, form.get(img, t), name, 8)
	}
	objects := s.df()["objects"]
	wantEqual(t, "objects counted anew", s.df("--recount")["objects"], objects)
	if n := int64(s.layerObjects(first)); objects.Count > n {
		t.Errorf("the store has %d objects, the layers %d", objects.Count, n)
	}
}

// layerObjects adds up the objects of the layers, those that several have included.
func (s *store) layerObjects(im inspected) (n int) {
	for _, l := range im.Layers {
		n += l.Objects
	}
	return n
}

// loadForm loads an image in one form.
func (s *store) loadForm(img *testimage.Image, form imageForm) (name string) {
	s.t.Helper()
	name, _ = s.load(form.get(img, s.t), "--name", "example.org/"+img.Name)
	wantEqual(s.t, "name printed", name, img.Ref)
	return name
}

// showsWhatTarExtracts mounts an image and compares.
func (s *store) showsWhatTarExtracts(img *testimage.Image, name string, entries int) {
	s.t.Helper()
	_, dir := s.mount(name)
	if n := testimage.CompareTrees(s.t, dir, img.Extracted(s.t), testimage.CompareOptions{}); n < entries {
		s.t.Errorf("compared %d entries, want at least %d", n, entries)
	}
	s.umount(dir)
}

// savesWhatCame saves an image in both formats and compares digests with those of the
// archive that it was loaded from.
func (s *store) savesWhatCame(form imageForm, source, name string, layers int) {
	t := s.t
	t.Helper()
	want := form.read(t, readArchive(t, source))
	if len(want.diffIDs) < layers {
		t.Errorf("the image has %d layers, want at least %d", len(want.diffIDs), layers)
	}
	row := s.image(name)
	wantEqual(t, "image id", row.ID, want.config)

	oci := readOCI(t, s.pipeTar("save", "--quiet", "--format", "oci", name))
	wantEqual(t, "manifest saved", oci.manifest, row.Digest)
	wantEqual(t, "config saved", oci.config, want.config)
	wantEqual(t, "DiffIDs saved", oci.diffIDs, want.diffIDs)
	wantEqual(t, "layers saved", oci.layers, want.layers)
	if !form.docker {
		wantEqual(t, "manifest printed", row.Digest, want.manifest)
		wantEqual(t, "media types saved", oci.types, want.types)
	}

	docker := readDocker(t, s.pipeTar("save", "--quiet", "--format", "docker", name))
	wantEqual(t, "config saved for docker", docker.config, want.config)
	wantEqual(t, "layers saved for docker", docker.layers, want.diffIDs)
	wantEqual(t, "names saved for docker", docker.names, []string{name})
}

// pipeTar reads the tar that a command writes to its standard output.
func (s *store) pipeTar(args ...string) map[string]member {
	s.t.Helper()
	cmd := s.command(s.t.Context(), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	members := readTar(s.t, out)
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("layerfs %v: %v", args, err)
	}
	return members
}

// TestFilesWithoutRoot lists, reads, exports and compares an image without mounting it,
// which nobody needs to be root for.
func TestFilesWithoutRoot(t *testing.T) {
	img := testimage.Busybox(t)
	s := newStore(t)
	name, _ := s.load(img.DockerArchive(t))
	wantEqual(t, "cat", s.ok("cat", name, "/etc/group"), "root:x:0:")
	entries := s.ok("ls", "--recursive", name)
	for _, want := range []string{"/bin/busybox", "/etc/passwd", "/tmp"} {
		if !slices.Contains(splitLines(entries), want) {
			t.Errorf("ls lists no %s", want)
		}
	}
	exported := readTar(t, s.exportTar(name))
	wantEqual(t, "content exported", string(exported["etc/group"].data), "root:x:0:\n")
	wantEqual(t, "diff with itself", s.ok("diff", name, name), "")
	s.savesWhatCame(dockerArchive, img.DockerArchive(t), name, 1)
	s.sound()
}
