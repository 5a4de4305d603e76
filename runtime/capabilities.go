package runtime

import "slices"

// Capabilities returns the names of all capabilities that this package knows, in the
// order of their numbers.
func Capabilities() []string { return append([]string(nil), capabilities[:]...) }

// OwnCapabilities returns the names of those that this process has and so can hand on.
func OwnCapabilities() ([]string, error) {
	have, err := own()
	if err != nil {
		return nil, err
	}
	var names []string
	for i, name := range capabilities {
		if have&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// MountOptions are the options of mounts that are not a file system's own, sorted.
func MountOptions() []string {
	names := []string{"bind", "idmap", "rbind", "ridmap"}
	for name := range attributes {
		names = append(names, name)
	}
	for name := range propagations {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
