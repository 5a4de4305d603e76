package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
	"golang.org/x/sys/unix"
)

// discards loads an archive twice, the second time dropping what can be made again, and
// checks that what is saved has the digests of what came, also after a collection. It
// returns how many of the layers are made again, and how many there are.
func (s *store) discards(form imageForm, source, name string) (remade, layers int) {
	t := s.t
	t.Helper()
	loaded, _ := s.load(source, "--name", name)
	before := s.df()["blobs"].Bytes
	again, _ := s.load(source, "--name", name, "--discard-blobs")
	wantEqual(t, "name", again, loaded)
	im, after := s.inspect(loaded), s.df()["blobs"].Bytes
	var size, gone int64
	encoders := map[string]int{}
	for _, l := range im.Layers {
		size += l.BlobSize
		if l.BlobIs == blobRemade {
			gone += l.BlobSize
			remade++
			encoders[l.Encoder]++
		}
	}
	t.Logf("made again: %d of %d layers, %d of %d bytes, by %v", remade, len(im.Layers), gone, size, encoders)
	wantEqual(t, "bytes freed", before-after, gone)
	s.ok("gc", "--grace", "0s")
	s.savesWhatCame(form, source, loaded, 1)
	s.sound()
	wantEqual(t, "image after all that", s.inspect(loaded), im)
	return remade, len(im.Layers)
}

// TestDiscardBlobsOfOldEncoders has blobs of another version of the encoders, as every
// store will: those that come out differently stay.
func TestDiscardBlobsOfOldEncoders(t *testing.T) {
	for _, form := range []imageForm{ociGzip, ociZstd} {
		img := testimage.Busybox(t)
		t.Run(form.name, func(t *testing.T) {
			newStore(t).discards(form, form.get(img, t), "example.org/"+img.Name)
		})
	}
}

// TestDiscardOwnBlobs has blobs of save, which can all be made again.
func TestDiscardOwnBlobs(t *testing.T) {
	for _, format := range []string{"gzip", "zstd"} {
		t.Run(format, func(t *testing.T) {
			img := testimage.Busybox(t)
			from := newStore(t)
			name, _ := from.load(img.DockerArchive(t))
			file := filepath.Join(t.TempDir(), "own.tar")
			from.ok("save", "--quiet", "--compress", format, "--output", file, name)
			if n, of := newStore(t).discards(ociGzip, file, "example.org/"+img.Name); n != of {
				t.Errorf("%d of %d layers are made again", n, of)
			}
		})
	}
}

// TestDiscardPushedBlobs has blobs that Docker made when it pushed an image, by the
// encoder of Go's standard library: they come out the same for many of its versions.
func TestDiscardPushedBlobs(t *testing.T) {
	testenv.Long(t)
	testenv.Tools(t, "skopeo")
	d := startDocker(t)
	registry := startRegistry(t)
	img := testimage.Minbase(t)
	d.run("load", "--quiet", "--input", img.DockerArchive(t))
	pushed := registry + "/minbase:1"
	d.run("tag", img.Ref, pushed)
	d.run("push", "--quiet", pushed)
	dir := filepath.Join(t.TempDir(), "pulled")
	skopeo(t, "copy", "--quiet", "--src-tls-verify=false", "docker://"+pushed, "oci:"+dir+":latest")
	if n, of := newStore(t).discards(ociGzip, dir, "example.org/minbase"); n != of {
		t.Errorf("%d of %d layers are made again", n, of)
	}
}

const registryStart = 20 * time.Second

// startRegistry starts a registry on an address of this machine and returns that.
func startRegistry(t testing.TB) string {
	t.Helper()
	testenv.Tools(t, "docker-registry")
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // ended by the signal
	})
	for limit := time.Now().Add(registryStart); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			return addr
		}
		if time.Now().After(limit) {
			t.Fatalf("the registry does not answer within %v: %v", registryStart, err)
		}
	}
}
