package main

import "testing"

func TestDetachKeys(t *testing.T) {
	for _, c := range []struct {
		keys, typed, pass string
		detach            bool
	}{
		{defaultDetachKeys, "ab\x10\x11cd", "ab", true},
		{defaultDetachKeys, "\x10a\x10\x10\x11", "\x10a\x10", true},
		{defaultDetachKeys, "\x11\x10", "\x11", false},
		{"a,b", "xab", "x", true},
		{"ctrl-@,ctrl-_", "\x00\x1f", "", true},
		{"", "\x10\x11", "\x10\x11", false},
	} {
		keys, err := parseDetachKeys(c.keys)
		if err != nil {
			t.Fatal(err)
		}
		// In one piece, and byte for byte.
		for _, step := range []int{len(c.typed), 1} {
			w := keyWatcher{keys: keys}
			pass, detach := "", false
			for i := 0; i < len(c.typed) && !detach; i += step {
				var p []byte
				p, detach = w.next([]byte(c.typed[i : i+step]))
				pass += string(p)
			}
			if pass != c.pass || detach != c.detach {
				t.Errorf("keys %q, typed %q by %d: %q, %v, want %q, %v", c.keys, c.typed, step, pass, detach, c.pass, c.detach)
			}
		}
	}
	for _, bad := range []string{"ctrl-", "ctrl-1", "ab", "a,,b"} {
		if _, err := parseDetachKeys(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseSignalAndBytes(t *testing.T) {
	for text, want := range map[string]int{"9": 9, "KILL": 9, "SIGTERM": 15, "sigrtmin+1": 35, "RTMAX": 64, "SIGRTMAX-1": 63} {
		if n, err := parseSignal(text); err != nil || int(n) != want {
			t.Errorf("signal %q is %d (%v), want %d", text, n, err, want)
		}
	}
	for _, bad := range []string{"", "0", "65", "SIGNOTHING", "RTMIN+99", "-1"} {
		if n, err := parseSignal(bad); err == nil {
			t.Errorf("signal %q is %d", bad, n)
		}
	}
	for text, want := range map[string]int64{"0": 0, "10": 10, "1k": 1024, "1.5m": 3 << 19, "2G": 2 << 30, "3kb": 3072, "4MiB": 4 << 20} {
		if n, err := parseBytes(text); err != nil || n != want {
			t.Errorf("size %q is %d (%v), want %d", text, n, err, want)
		}
	}
	for _, bad := range []string{"", "-1", "x", "1e3", "inf", "nan", "99999999999999t", "0x10"} {
		if n, err := parseBytes(bad); err == nil {
			t.Errorf("size %q is %d", bad, n)
		}
	}
}
