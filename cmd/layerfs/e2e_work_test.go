package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
	"golang.org/x/sys/unix"
)

// many is the number of files in the directory that is renamed as a whole.
const many = 10_000

// prepareScript makes what changeScript changes.
const prepareScript = `
	set -eu
	mkdir -p /data/many /data/opaque/sub /data/gone/sub
	cd /data/many
	i=0; while [ $i -lt 10000 ]; do echo "file $i" >"f$i"; i=$((i + 1)); done
	head -c 33554432 /dev/urandom >/data/big
	cd /data
	echo lower >file; ln file linked; echo other >opaque/sub/f; echo x >gone/sub/f
	ln -s file symlink; echo m >moved; echo t >type; mkdir typedir; echo in >typedir/in
`

// changeScript is what a process does to the image.
const changeScript = `
	set -eu
	cd /data
	chmod 0600 big
	mv many renamed
	rm renamed/f7; echo changed >renamed/f8; echo added >renamed/new
	rm -r gone
	rm -r opaque; mkdir opaque; echo new >opaque/only
	echo more >>file
	ln big big-linked; ln renamed/f9 f9-linked
	chown 12:34 symlink; mv moved moved2
	rm type; mkdir type; echo in >type/in; rm -r typedir; echo now a file >typedir
	mkdir -p new/dir; mkfifo new/fifo; ln -s /nowhere new/symlink
	touch -d @1234567890 new/dir
	rm /etc/group; echo layerfs >/etc/motd; chmod 4755 moved2
`

// TestInteropMainJob is the main job: an image that Docker wrote is loaded, mounted,
// changed, compared, committed, mounted again and saved, and Docker and skopeo take
// the result with the digests that layerfs printed. The same changes in a container of
// Docker's give the same list of changes.
func TestInteropMainJob(t *testing.T) {
	d := startDocker(t)
	testenv.Tools(t, "skopeo")
	const base, result = "example.org/base:v1", "example.org/result:v1"
	d.run("load", "--quiet", "--input", testimage.Busybox(t).DockerArchive(t))
	d.container("prepare", "example.org/busybox:latest", prepareScript)
	d.run("commit", "prepare", base)
	archive := filepath.Join(t.TempDir(), "base.tar")
	d.run("save", "--output", archive, base)

	s := newStore(t)
	name, _ := s.load(archive)
	wantEqual(t, "name", name, base)
	baseID := d.run("image", "inspect", "--format", "{{.Id}}", base)
	wantEqual(t, "image id of what Docker made", s.image(base).ID, baseID)

	key, dir := s.mount(base, "--name", "work")
	wantEqual(t, "name of the snapshot", key, "work")
	testenv.Output(t, "chroot", dir, "/bin/sh", "-c", changeScript)

	d.container("change", base, changeScript)
	changes := splitLines(s.ok("diff", "work"))
	if len(changes) < many {
		t.Errorf("diff lists %d changes, want at least %d", len(changes), many)
	}
	sameLines(t, "diff", changes, splitLines(d.run("diff", "change")))

	// Docker's processes have fewer rights: attributes of all name spaces are set here.
	for file, attr := range map[string]string{"data/big": "user.note", "data/renamed/f10": "trusted.note", "data/renamed": "security.note"} {
		if err := unix.Setxattr(filepath.Join(dir, file), attr, []byte("value of "+attr), 0); err != nil {
			t.Fatal(err)
		}
	}
	id := s.ok("commit", "--change", `CMD ["/bin/true"]`, "--message", "changed", "work", result)
	row := s.image(result)
	wantEqual(t, "id printed by commit", id, row.ID)
	wantEqual(t, "diff of the images", s.ok("diff", base, result), s.ok("diff", "work"))

	_, committed := s.mount(result, "--read-only")
	testimage.CompareTrees(t, committed, dir, testimage.CompareOptions{})
	s.umount(committed)

	f := s.saveAll(result)
	layers := extractLayers(t, f.docker)
	// Overlayfs goes on to count the links of a lower file of which another name changed.
	o := testimage.CompareOptions{Ignore: func(path, field string) bool {
		return path == "data/linked" && (field == "nlink" || field == "links")
	}}
	testimage.CompareTrees(t, testimage.Extract(t, layers...), dir, o)
	s.umount("work")

	d.takes(s, f.docker, result)
	out := d.container("check", result, "cat /data/renamed/new /data/typedir /etc/motd; ls /data/renamed | wc -l; stat -c %a:%h /data/big; ls /data/opaque; [ ! -e /data/gone ]")
	wantEqual(t, "what a container sees", out, "added\nnow a file\nlayerfs\n10000\n600:2\nonly")
	wantEqual(t, "command in docker", d.run("image", "inspect", "--format", "{{json .Config.Cmd}}", result), `["/bin/true"]`)

	var got skopeoInspected
	if err := json.Unmarshal([]byte(skopeo(t, "inspect", "oci-archive:"+f.oci)), &got); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "digest that skopeo shows", got.Digest, row.Digest)
	d.run("rmi", "--force", "example.org/result:v1")
	copied := filepath.Join(t.TempDir(), "copied.tar")
	skopeo(t, "copy", "--quiet", "oci:"+f.dir, "docker-archive:"+copied+":"+result)
	d.takes(s, copied, result)

	s.ok("snapshots", "rm", "work")
	s.sound()
}

// container runs a shell script in a container and returns what it printed.
func (d *docker) container(name, image, script string) string {
	d.t.Helper()
	d.t.Cleanup(func() { d.run("rm", "--force", "--volumes", name) })
	return d.run("run", "--name", name, "--network", "none", "--hostname", "layerfs", "--workdir", "/", image, "/bin/sh", "-c", script)
}

// sameLines compares two lists of lines in any order.
func sameLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	count := map[string]int{}
	for _, l := range got {
		count[l]++
	}
	for _, l := range want {
		count[l]--
	}
	shown := 0
	for l, n := range count {
		if n == 0 {
			continue
		}
		if shown++; shown > 20 {
			t.Errorf("%s: and more lines that differ", what)
			return
		}
		t.Errorf("%s: %+d times %q", what, n, l)
	}
}

// extractLayers unpacks a docker archive and returns its layers, bottom to top.
func extractLayers(t testing.TB, archive string) []string {
	t.Helper()
	dir := t.TempDir()
	testenv.Output(t, "tar", "--extract", "--file", archive, "--directory", dir)
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ Layers []string }
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range list[0].Layers {
		names = append(names, filepath.Join(dir, l))
	}
	return names
}

// gibibyte is the size of the file whose metadata is changed.
const gibibyte = 1 << 30

// TestChangesOfMetadata changes the mode of a file of 1 GiB and the name of a directory
// of 10,000 files: nothing of either is copied, and the committed layer is exact.
func TestChangesOfMetadata(t *testing.T) {
	testenv.Root(t)
	testenv.Long(t)
	s := newStore(t)
	const base, result = "example.org/base:v1", "example.org/result:v1"
	in, out := io.Pipe()
	go func() { out.CloseWithError(writeLargeLayer(out)) }()
	cmd := s.command(t.Context(), "import", "--quiet", "-", base)
	cmd.Stdin = in
	if r := s.finish(cmd, []string{"import"}); r.code != 0 {
		t.Fatal(r)
	}

	_, dir := s.mount(base, "--name", "work")
	testenv.Output(t, "sh", "-euc", "cd "+dir+"; chmod 0640 big; mv many/dir renamed; touch -d @1500000000 many .")
	upper := diskUse(t, filepath.Join(s.root, "snapshots", "work"))
	t.Logf("bytes on disk of the snapshot after both changes: %d", upper)
	if limit := int64(64 << 10); upper > limit {
		t.Errorf("the snapshot uses %d bytes on disk after changes of metadata, limit %d", upper, limit)
	}
	wantEqual(t, "summary of diff", summary(splitLines(s.ok("diff", "work"))), "A:10001 C:2 D:1")

	before := s.df()["objects"]
	s.ok("commit", "work", result)
	wantEqual(t, "objects after the commit", s.df()["objects"], before)

	// What the layer's tar says, as GNU tar lists it.
	layers := extractLayers(t, s.saveAs("docker", result))
	list := testenv.Output(t, "tar", "--list", "--verbose", "--numeric-owner", "--file", layers[1])
	kinds := map[string]int{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		name := fields[len(fields)-1]
		switch {
		case name == "big":
			wantEqual(t, "mode and size of big", fields[0]+" "+fields[2], fmt.Sprint("-rw-r----- ", gibibyte))
			kinds["big"]++
		case name == "many/.wh.dir":
			kinds["whiteout"]++
		case strings.HasPrefix(name, "renamed/f"):
			kinds["renamed"]++
		default:
			kinds[name]++
		}
	}
	wantEqual(t, "members of the layer", kinds, map[string]int{"big": 1, "whiteout": 1, "renamed": many, "renamed/": 1, "many/": 1, "./": 1})

	_, committed := s.mount(result, "--read-only")
	testimage.CompareTrees(t, committed, dir, testimage.CompareOptions{})
	testimage.CompareTrees(t, testimage.Extract(t, layers...), dir, testimage.CompareOptions{SkipContent: true})
}

// saveAs saves an image and returns the file.
func (s *store) saveAs(format, name string) string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "saved.tar")
	s.ok("save", "--quiet", "--format", format, "--output", file, name)
	return file
}

// summary counts the changes of each kind.
func summary(changes []string) string {
	count := map[string]int{}
	for _, c := range changes {
		count[c[:1]]++
	}
	var parts []string
	for k, n := range count {
		parts = append(parts, fmt.Sprintf("%s:%d", k, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// writeLargeLayer writes a tar of a file of 1 GiB without holes and a directory.
func writeLargeLayer(w io.Writer) error {
	tw := tar.NewWriter(w)
	errs := []error{
		tw.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}),
		tw.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: gibibyte}),
	}
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for n := range gibibyte / len(block) {
		copy(block, fmt.Sprintf("%016d", n))
		_, err := tw.Write(block)
		errs = append(errs, err)
	}
	errs = append(errs,
		tw.WriteHeader(&tar.Header{Name: "many/", Typeflag: tar.TypeDir, Mode: 0o755}),
		tw.WriteHeader(&tar.Header{Name: "many/dir/", Typeflag: tar.TypeDir, Mode: 0o755}))
	for i := range many {
		content := strings.Repeat(fmt.Sprintf("%08d\n", i), 10)
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("many/dir/f%05d", i), Mode: 0o644, Size: int64(len(content))}))
		_, err := io.WriteString(tw, content)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, tw.Close())...)
}

// diskUse returns the bytes that everything below dir occupies on its file system.
func diskUse(t testing.TB, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		sum += st.Blocks * 512 // stat(2)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
