package network

import (
	"fmt"
	"io/fs"
	"strings"
)

const (
	maxNetworkName = 64  // bytes in the name of a network
	maxContainerID = 120 // bytes in the id of a container, which is the comment of its elements in nftables
	maxLabelLength = 63  // bytes in one label of a host name (RFC 1035)
	maxHostName    = 253 // bytes in a host name (RFC 1035, less the length octets at both ends)
)

// Names that are no networks' but ways to have none of one's own.
const (
	nameNone      = "none"
	nameHost      = "host"
	nameDefault   = "default"
	nameContainer = "container"
)

// DefaultNetwork is the name of the network that containers join when none is named.
const DefaultNetwork = "bridge"

// checkWord allows Docker's characters of a name: letters, digits, and inside also "_",
// "." and "-". Such a name is also a safe name of a file.
func checkWord(what, s string, most int) error {
	if s == "" || len(s) > most {
		return fmt.Errorf("%s %q: want 1 to %d bytes: %w", what, s, most, fs.ErrInvalid)
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("%s %q: want letters, digits, and inside also \"_\", \".\" and \"-\": %w", what, s, fs.ErrInvalid)
		}
	}
	return nil
}

func checkNetworkName(s string) error {
	if err := checkWord("network", s, maxNetworkName); err != nil {
		return err
	}
	return nil
}

// checkNewName is checkNetworkName for a network that is to be made.
func checkNewName(s string) error {
	switch s {
	case nameNone, nameHost, nameDefault, nameContainer:
		return fmt.Errorf("network %q: the name has a meaning of its own: %w", s, fs.ErrInvalid)
	}
	return checkNetworkName(s)
}

func checkID(s string) error { return checkWord("container", s, maxContainerID) }

// hostName checks a name that others are to find a container by, and returns it as it
// is looked up: in lower case, without a final dot.
func hostName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if name == "" || len(name) > maxHostName {
		return "", fmt.Errorf("host name %q: want 1 to %d bytes: %w", s, maxHostName, fs.ErrInvalid)
	}
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("host name %q: %w", s, err)
		}
	}
	return name, nil
}

// checkLabel takes underscores too, which names of containers have.
func checkLabel(l string) error {
	if l == "" || len(l) > maxLabelLength {
		return fmt.Errorf("a part has %d bytes, want 1 to %d: %w", len(l), maxLabelLength, fs.ErrInvalid)
	}
	for i := range len(l) {
		c := l[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_'
		if !letter && (i == 0 || i == len(l)-1 || c != '-') {
			return fmt.Errorf("part %q: want letters, digits and \"_\", and inside also \"-\": %w", l, fs.ErrInvalid)
		}
	}
	return nil
}
