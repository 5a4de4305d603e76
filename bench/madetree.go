package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The made-up tree: tree/ has 50,000 files of 0 to 64 KiB in directories of 50, bulk/
// 10,000 of 4 KiB, large/ one of 1 GiB where that is wanted, src/ a git repository of 12,000 with a program in
// C, src.tar what is in it. The same files come out every time.
const (
	treeFiles  = 50_000
	treeDir    = 50
	bulkFiles  = 10_000
	bulkSize   = 4 << 10
	largeSize  = 1 << 30
	srcFiles   = 12_000
	srcC       = 40
	treeMost   = 64 << 10
	filesInDir = 100
	largeFile  = "large/file"
)

// treeArchive makes the tree on the measured file system and an archive of it.
func (b *bench) treeArchive(ctx context.Context, large bool) (archive, error) {
	a := archive{image: "made-up", form: dockerArchive, ref: "example.org/tree:latest", extracted: b.disk.path("lower"), file: filepath.Join(b.work, "tree.tar")}
	random := rand.NewChaCha8([32]byte{1})
	if err := errors.Join(os.Mkdir(a.extracted, 0o755), makeTree(a.extracted, random)); err != nil {
		return a, err
	}
	if large {
		if err := makeLarge(filepath.Join(a.extracted, largeFile), random); err != nil {
			return a, err
		}
	}
	src := filepath.Join(a.extracted, "src")
	git := []string{"git", "-C", src, "-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "user.name=bench", "-c", "user.email=bench@example.org"}
	layer := filepath.Join(b.work, "layer.tar")
	defer os.Remove(layer) //nolint:errcheck // the whole directory goes
	for _, args := range [][]string{
		{"tar", "-C", src, "-cf", filepath.Join(a.extracted, "src.tar"), "."},
		append(git[:len(git):len(git)], "init", "-q"),
		append(git[:len(git):len(git)], "add", "-A"),
		append(git[:len(git):len(git)], "commit", "-q", "-m", "all"),
		append(git[:len(git):len(git)], "gc", "-q"),
		{"tar", "-C", a.extracted, "-cf", layer, "."},
	} {
		if _, err := run(ctx, args); err != nil {
			return a, err
		}
	}
	return a, packLayer(layer, a.file, a.ref)
}

func makeTree(dir string, random *rand.ChaCha8) error {
	r := rand.New(random)
	data := make([]byte, treeMost)
	file := func(size int, words ...string) error {
		path := filepath.Join(append([]string{dir}, words...)...)
		if _, err := random.Read(data[:size]); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, data[:size], 0o644)
	}
	var errs []error
	for n := range treeFiles {
		size := r.IntN(1 << 10) // two in five, as in real images
		switch n % 5 {
		case 1, 2:
			size = 1<<10 + r.IntN(7<<10)
		case 3:
			size = r.IntN(treeMost)
		}
		d := n / treeDir
		errs = append(errs, file(size, "tree", fmt.Sprintf("%02d", d/32), fmt.Sprintf("%02d", d%32), fmt.Sprintf("file-%02d", n%treeDir)))
	}
	for n := range bulkFiles {
		errs = append(errs, file(bulkSize, "bulk", fmt.Sprintf("%02d", n/filesInDir), fmt.Sprintf("%02d", n%filesInDir)))
	}
	for n := range srcFiles {
		errs = append(errs, file(r.IntN(4<<10), "src", fmt.Sprintf("%03d", n/filesInDir), fmt.Sprintf("%02d", n%filesInDir)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return makeProgram(filepath.Join(dir, "src", "program"))
}

func makeLarge(path string, random io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, random, largeSize)
	return errors.Join(err, f.Close())
}

// makeProgram writes a program that make and a C compiler can build.
func makeProgram(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	main, objects := "", ""
	for n := range srcC {
		text := fmt.Sprintf("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint part%d(int n) { char s[64]; snprintf(s, sizeof s, \"%%d\", n); return (int)strlen(s) + %d; }\n", n, n)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("part%d.c", n)), []byte(text), 0o644); err != nil {
			return err
		}
		main = fmt.Sprintf("int part%d(int);\n", n) + main
		objects += fmt.Sprintf(" part%d.o", n)
	}
	main += "int main(void) { return part0(1) > 1; }\n"
	makefile := "program: main.o" + objects + "\n\tcc -o $@ $^\nclean:\n\trm -f program *.o\n"
	return errors.Join(os.WriteFile(filepath.Join(dir, "main.c"), []byte(main), 0o644), os.WriteFile(filepath.Join(dir, "Makefile"), []byte(makefile), 0o644))
}

// packLayer writes an image of one layer as docker save does.
func packLayer(layer, file, ref string) (err error) {
	in, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // opened for reading
	sum := sha256.New()
	size, err := io.Copy(sum, in)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	list, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	t := tar.NewWriter(out)
	for name, data := range map[string][]byte{"config.json": config, "manifest.json": list} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := t.Write(data); err != nil {
			return err
		}
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "layer.tar", Mode: 0o644, Size: size}); err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(t, in); err != nil {
		return err
	}
	return t.Close()
}
