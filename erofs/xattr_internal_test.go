package erofs

import (
	"slices"
	"testing"
)

// TestXXH32 has the values of the xxHash reference implementation.
func TestXXH32(t *testing.T) {
	for _, c := range []struct {
		s    string
		seed uint32
		want uint32
	}{
		{"", 0, 0x02cc5d05},
		{"a", 0, 0x550d7456},
		{"abc", 0, 0x32d153ff},
		{"Nobody inspects the spammish repetition", 0, 0xe2293b2f},
	} {
		if have := xxh32(c.s, c.seed); have != c.want {
			t.Errorf("xxh32(%q, %#x) = %#08x, want %#08x", c.s, c.seed, have, c.want)
		}
	}
}

// TestValidACL takes ACLs as setxattr does.
func TestValidACL(t *testing.T) {
	const (
		header = "\x02\x00\x00\x00"
		no     = "\xff\xff\xff\xff"
		owner  = "\x01\x00\x07\x00" + no
		user   = "\x02\x00\x05\x00\x01\x00\x00\x00"
		group  = "\x04\x00\x05\x00" + no
		named  = "\x08\x00\x05\x00\x01\x00\x00\x00"
		mask   = "\x10\x00\x05\x00" + no
		other  = "\x20\x00\x05\x00" + no
	)
	valid := []string{
		header,
		header + owner + group + other,
		header + owner + group + mask + other,
		header + owner + user + user + group + named + named + mask + other,
	}
	invalid := []string{
		"", "\x02", "\x01\x00\x00\x00" + owner + group + other,
		header + owner, header + owner + group, header + group + other, header + owner + other,
		header + owner + group + other + other, header + owner + owner + group + other,
		header + owner + user + group + other, header + owner + group + named + other,
		header + group + owner + other, header + owner + group + other + "x",
		header + "\x01\x00\x08\x00" + no + group + other,
		header + owner + "\x02\x00\x05\x00" + no + group + mask + other,
		header + "\x00\x00\x07\x00" + no, header + "\x03\x00\x07\x00" + no,
	}
	for _, v := range slices.Concat(valid, invalid) {
		if have, want := validACL(v), slices.Contains(valid, v); have != want {
			t.Errorf("validACL(%q) = %v", v, have)
		}
	}
}
