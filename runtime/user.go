package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxID is the largest user and group id that is accepted, as in runc and Docker:
	// larger ones are negative to programs that keep ids in an int, and the largest
	// means "do not change" to the kernel.
	maxID = math.MaxInt32

	// maxGroups is how many supplementary groups a process can have (NGROUPS_MAX in
	// include/uapi/linux/limits.h).
	maxGroups = 65536
)

// account is a line of /etc/passwd (passwd(5)).
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// group is a line of /etc/group (group(5)).
type group struct {
	name    string
	gid     uint32
	members []string
}

// resolveUser finds who "user[:group]" is in a root, and the home directory.
//
// The rules are Docker's: digits are an id, never a name, and need no entry; a user's
// group and supplementary groups come from the files unless a group is named, which is
// then the only one. The main group is among the supplementary ones, so that dropping
// it does not gain what is forbidden to its members. An image without the files is
// one with empty files.
func resolveUser(root int, text string) (specs.User, string, error) {
	userText, groupText, named := strings.Cut(text, ":")
	if userText == "" {
		userText = "0"
	}
	var accounts []account
	passwd, err := accountFile(root, "etc/passwd")
	if err != nil {
		return specs.User{}, "", err
	}
	accounts = parsePasswd(passwd)

	who := account{home: "/"}
	uid, numeric, err := parseID(userText)
	if err != nil {
		return specs.User{}, "", fmt.Errorf("user %q: %w", userText, err)
	}
	found := slices.IndexFunc(accounts, func(a account) bool {
		if numeric {
			return a.uid == uid
		}
		return a.name == userText
	})
	switch {
	case found >= 0:
		who = accounts[found]
	case numeric:
		who.uid = uid
	default:
		return specs.User{}, "", fmt.Errorf("user %q: not in /etc/passwd of the root: %w", userText, fs.ErrNotExist)
	}
	u := specs.User{UID: who.uid, GID: who.gid}
	if named && groupText != "" {
		if u.GID, err = resolveGroup(root, groupText); err != nil {
			return specs.User{}, "", err
		}
		u.AdditionalGids = []uint32{u.GID}
		return u, homeOf(who), nil
	}
	u.AdditionalGids = []uint32{u.GID}
	if who.name != "" {
		groups, err := accountFile(root, "etc/group")
		if err != nil {
			return specs.User{}, "", err
		}
		seen := map[uint32]bool{u.GID: true}
		for _, g := range parseGroup(groups) {
			if slices.Contains(g.members, who.name) && !seen[g.gid] {
				seen[g.gid] = true
				u.AdditionalGids = append(u.AdditionalGids, g.gid)
			}
		}
		if len(u.AdditionalGids) > maxGroups {
			return specs.User{}, "", fmt.Errorf("user %q: in %d groups, at most %d: %w", userText, len(u.AdditionalGids), maxGroups, fs.ErrInvalid)
		}
	}
	return u, homeOf(who), nil
}

func homeOf(a account) string {
	if a.home == "" {
		return "/"
	}
	return a.home
}

func resolveGroup(root int, text string) (uint32, error) {
	gid, numeric, err := parseID(text)
	if err != nil {
		return 0, fmt.Errorf("group %q: %w", text, err)
	}
	if numeric {
		return gid, nil
	}
	groups, err := accountFile(root, "etc/group")
	if err != nil {
		return 0, err
	}
	for _, g := range parseGroup(groups) {
		if g.name == text {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("group %q: not in /etc/group of the root: %w", text, fs.ErrNotExist)
}

// parseID tells whether text is digits, and the id then. Digits that are out of range
// are an error and not a name: a name that looks like an id is how a user becomes
// somebody else.
func parseID(text string) (id uint32, numeric bool, err error) {
	if strings.Trim(text, "0123456789") != "" {
		if text[0] == '+' || text[0] == '-' {
			return 0, false, fmt.Errorf("an id with a sign: %w", fs.ErrInvalid)
		}
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("an id is at most %d: %w", maxID, fs.ErrInvalid)
	}
	return uint32(n), true, nil
}

// accountFile reads a file that may be missing.
func accountFile(root int, name string) (string, error) {
	b, err := readIn(root, name, maxAccountFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// parsePasswd returns the well-formed lines; others are passed over, as the C library
// does.
func parsePasswd(text string) []account {
	var out []account
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Split(line, ":")
		const fields = 7
		if len(f) != fields || f[0] == "" || strings.HasPrefix(f[0], "#") {
			continue
		}
		uid, ok1, err1 := parseID(f[2])
		gid, ok2, err2 := parseID(f[3])
		if f[2] == "" || f[3] == "" || !ok1 || !ok2 || err1 != nil || err2 != nil {
			continue
		}
		out = append(out, account{name: f[0], uid: uid, gid: gid, home: f[5]})
	}
	return out
}

// parseGroup returns the well-formed lines.
func parseGroup(text string) []group {
	var out []group
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Split(line, ":")
		const fields = 4
		if len(f) != fields || f[0] == "" || strings.HasPrefix(f[0], "#") {
			continue
		}
		gid, ok, err := parseID(f[2])
		if f[2] == "" || !ok || err != nil {
			continue
		}
		out = append(out, group{name: f[0], gid: gid, members: strings.Split(f[3], ",")})
	}
	return out
}
