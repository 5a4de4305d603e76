package bundle

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultLabel is the SELinux label of containers in the policies of distributions
// (container-selinux), and filesType the type of what they may use.
const (
	defaultLabel = "system_u:system_r:container_t:s0"
	filesType    = "container_file_t"
)

// The fields of a label.
const (
	labelUser = iota
	labelRole
	labelType
	labelLevel
	labelFields
)

// AddLabel changes one field of the SELinux label of a process, which "" stands for the
// default of, as Docker's option label does: user:U, role:R, type:T, level:L, or disable,
// which is no label.
func AddLabel(label, option string) (string, error) {
	if option == "disable" {
		return "", nil
	}
	if label == "" {
		label = defaultLabel
	}
	name, value, _ := strings.Cut(option, ":")
	field := map[string]int{"user": labelUser, "role": labelRole, "type": labelType, "level": labelLevel}
	i, ok := field[name]
	if !ok || value == "" {
		return "", fmt.Errorf("label %q: want disable, user:…, role:…, type:… or level:…: %w", option, fs.ErrInvalid)
	}
	parts := strings.SplitN(label, ":", labelFields)
	parts[i] = value
	return strings.Join(parts, ":"), nil
}

// labels sets those of the security modules. One that the kernel lacks is refused when
// the container starts.
func labels(spec *specs.Spec, apparmor, selinux string) {
	if apparmor != Unconfined {
		spec.Process.ApparmorProfile = apparmor
	}
	if selinux == "" {
		return
	}
	spec.Process.SelinuxLabel = selinux
	level := strings.SplitN(selinux, ":", labelFields)[labelLevel]
	spec.Linux.MountLabel = "system_u:object_r:" + filesType + ":" + level
}
