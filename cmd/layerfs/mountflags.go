package main

import (
	"encoding/csv"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
)

// mountsOf collects what is mounted: what flags say, and anonymous volumes where the
// image declares volumes and nothing else is mounted.
func (o *createOptions) mountsOf(rec *container.Record, declared map[string]struct{}) error {
	for _, text := range o.volumes {
		m, err := parseVolumeFlag(text)
		if err != nil {
			return err
		}
		rec.Mounts = append(rec.Mounts, m)
	}
	for _, text := range o.mounts {
		m, err := parseMountFlag(text)
		if err != nil {
			return err
		}
		rec.Mounts = append(rec.Mounts, m)
	}
	for _, text := range o.tmpfs {
		target, options, _ := strings.Cut(text, ":")
		m := container.Mount{Kind: container.MountTmpfs, Target: target, Options: []string{"nosuid", "nodev", "noexec"}}
		if options != "" {
			m.Options = append(m.Options, strings.Split(options, ",")...)
		}
		rec.Mounts = append(rec.Mounts, m)
	}
	seen := map[string]bool{}
	for i, m := range rec.Mounts {
		to := path.Clean(m.Target)
		if !path.IsAbs(to) || to == "/" {
			return usageError{fmt.Errorf("mount on %q: want an absolute path in the container, and not its root", m.Target)}
		}
		if seen[to] {
			return usageError{fmt.Errorf("two mounts on %s", to)}
		}
		seen[to] = true
		rec.Mounts[i].Target = to
	}
	for _, target := range slices.Sorted(maps.Keys(declared)) {
		if to := path.Clean("/" + target); to != "/" && !seen[to] {
			seen[to] = true
			rec.Mounts = append(rec.Mounts, container.Mount{Kind: container.MountVolume, Target: to, Anonymous: true})
		}
	}
	for i, m := range rec.Mounts {
		if m.Kind == container.MountVolume && m.Source == "" {
			rec.Mounts[i].Source, rec.Mounts[i].Anonymous = string(container.NewID()), true
		}
	}
	return nil
}

// parseVolumeFlag reads [NAME|PATH:]TARGET[:OPTION,...]; what looks like a path is a
// directory or file of this machine.
func parseVolumeFlag(text string) (container.Mount, error) {
	m := container.Mount{Kind: container.MountVolume}
	bad := func(why string) (container.Mount, error) {
		return m, usageError{fmt.Errorf("--volume %q: %s", text, why)}
	}
	parts := strings.Split(text, ":")
	options := ""
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, options = parts[0], parts[1], parts[2]
	default:
		return bad("want [NAME|PATH:]TARGET[:OPTION,...]")
	}
	if len(parts) > 1 {
		if strings.HasPrefix(m.Source, "/") || strings.HasPrefix(m.Source, ".") || strings.HasPrefix(m.Source, "~") {
			m.Kind = container.MountBind
			source, err := absolute(m.Source)
			if err != nil {
				return m, err
			}
			m.Source = source
		} else if _, err := volume.ParseName(m.Source); err != nil {
			return bad(err.Error())
		}
	}
	if options == "" {
		return m, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "ro", "readonly":
			m.ReadOnly = true
		case "rw":
			m.ReadOnly = false
		case "nocopy":
			m.NoCopy = true
		case "z", "Z", "delegated", "cached", "consistent":
			// For SELinux and for other systems; Docker takes them everywhere.
		case "private", "rprivate", "slave", "rslave", "shared", "rshared", "nosuid", "nodev", "noexec", "bind", "rbind":
			m.Options = append(m.Options, o)
		default:
			return bad(fmt.Sprintf("option %q is unknown", o))
		}
	}
	if m.NoCopy && m.Kind != container.MountVolume {
		return bad("nocopy is for volumes")
	}
	return m, nil
}

// parseMountFlag reads type=…,source=…,target=…,… in the form of a line of CSV.
func parseMountFlag(text string) (container.Mount, error) {
	m := container.Mount{Kind: container.MountVolume}
	bad := func(why string) (container.Mount, error) {
		return m, usageError{fmt.Errorf("--mount %q: %s", text, why)}
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return bad("want NAME=VALUE,...")
	}
	for _, f := range fields {
		key, value, set := strings.Cut(f, "=")
		flag := func() (bool, error) {
			if !set {
				return true, nil
			}
			return strconv.ParseBool(value)
		}
		var err error
		switch strings.ToLower(key) {
		case "type":
			m.Kind = container.MountKind(value)
		case "source", "src":
			m.Source = value
		case "target", "destination", "dst":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = flag()
		case "volume-nocopy":
			m.NoCopy, err = flag()
		case "bind-propagation":
			m.Options = append(m.Options, value)
		case "bind-recursive", "bind-nonrecursive":
			recursive := value == "enabled"
			if key == "bind-nonrecursive" {
				recursive, err = flag()
				recursive = !recursive
			} else if value != "enabled" && value != "disabled" {
				return bad("bind-recursive is enabled or disabled")
			}
			if !recursive {
				m.Options = append(m.Options, "bind")
			}
		case "tmpfs-size":
			var n int64
			if n, err = parseBytes(value); err == nil {
				m.Options = append(m.Options, "size="+strconv.FormatInt(n, 10))
			}
		case "tmpfs-mode":
			if _, err = strconv.ParseUint(value, 8, 12); err == nil {
				m.Options = append(m.Options, "mode="+value)
			}
		default:
			return bad(fmt.Sprintf("%q is unknown", key))
		}
		if err != nil {
			return bad(fmt.Sprintf("%q does not fit", f))
		}
	}
	switch m.Kind {
	case container.MountBind:
		if m.Source == "" {
			return bad("a bind mount needs a source")
		}
		if m.Source, err = absolute(m.Source); err != nil {
			return m, err
		}
	case container.MountVolume:
		if m.Source != "" {
			if _, err := volume.ParseName(m.Source); err != nil {
				return bad(err.Error())
			}
		}
	case container.MountTmpfs:
		if m.Source != "" {
			return bad("memory has no source")
		}
		m.Options = append(m.Options, "nosuid", "nodev")
	default:
		return bad("type is bind, volume or tmpfs")
	}
	return m, nil
}
