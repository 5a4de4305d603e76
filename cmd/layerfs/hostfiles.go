package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// hostFiles finds programs of this machine and all that the dynamic linker loads for
// them. It returns where each lies here, by its place in a root file system in which
// /bin, /lib and /lib64 are links into /usr. Programs that are not there are left out;
// the first is wanted.
func hostFiles(programs []string) (map[string]string, error) {
	out := map[string]string{}
	for i, name := range programs {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			if i == 0 {
				return nil, fmt.Errorf("find %s on this machine: %w", name, err)
			}
			continue
		}
		out["usr/bin/"+name] = path
		if err := addLibraries(out, path, 0); err != nil {
			return nil, fmt.Errorf("find the libraries of %s: %w", path, err)
		}
	}
	return out, nil
}

// addLibraries adds the dynamic linker and the libraries of an ELF file.
func addLibraries(out map[string]string, path string, depth int) (err error) {
	const maxDepth = 32
	if depth > maxDepth {
		return fmt.Errorf("libraries need libraries more than %d deep: %w", maxDepth, fs.ErrInvalid)
	}
	f, err := elf.Open(path)
	var bad *elf.FormatError
	if errors.As(err, &bad) {
		return nil // a script
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			return err
		}
		interp := strings.TrimRight(string(b), "\x00")
		to := strings.TrimPrefix(filepath.Clean(interp), "/")
		if !strings.HasPrefix(to, "usr/") {
			to = "usr/" + to
		}
		out[to] = interp
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil // a static program has no dynamic section
	}
	runpath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		where, err := findLibrary(f, lib, path, runpath)
		if err != nil {
			return err
		}
		to := "usr/lib/" + lib
		if strings.HasPrefix(lib, "ld-linux") {
			to = "usr/lib64/" + lib
		}
		if _, ok := out[to]; ok {
			continue
		}
		out[to] = where
		if err := addLibraries(out, where, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// findLibrary looks where the dynamic linker looks, but for its cache: the run path of
// the file, then the usual directories, of this machine's architecture first.
func findLibrary(f *elf.File, lib, of string, runpath []string) (string, error) {
	var dirs []string
	for _, p := range runpath {
		for dir := range strings.SplitSeq(p, ":") {
			dirs = append(dirs, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(of)))
		}
	}
	multi, err := filepath.Glob("/usr/lib/*-linux-gnu*")
	if err != nil {
		return "", err
	}
	dirs = append(dirs, multi...)
	dirs = append(dirs, "/usr/lib64", "/usr/lib", "/lib64", "/lib", "/usr/local/lib")
	for _, dir := range dirs {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, lib))
		if err != nil {
			continue
		}
		if l, err := elf.Open(path); err == nil {
			same := l.Machine == f.Machine && l.Class == f.Class
			if err := l.Close(); err != nil {
				return "", err
			}
			if same {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("library %s of %s: %w", lib, of, os.ErrNotExist)
}
