package main

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{
		"":             "",
		"/a b":         "/a b",
		"/é€😀":         "/é€😀",
		"/new\nline":   `/new\nline`,
		`/new\nline`:   `/new\\nline`,
		"/tab\t":       `/tab\t`,
		"/bad\xff":     `/bad\377`,
		"/é\xff":       `/é\377`,
		"/esc\x1b[31m": `/esc\033[31m`,
		"/\u202etxt":   `/\342\200\256txt`,
		"/\uFFFD":      "/\uFFFD",
		"/\u0085":      `/\302\205`,
	} {
		if got := printable(name); got != want {
			t.Errorf("printable(%q) = %s, want %s", name, got, want)
		}
	}
}

// unprintable undoes printable, by what its documentation says.
func unprintable(s string) (string, error) {
	var b strings.Builder
	for s != "" {
		if s[0] != '\\' {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) < 2 {
			return "", strconv.ErrSyntax
		}
		if i := strings.IndexByte(`nt\`, s[1]); i >= 0 {
			b.WriteByte("\n\t\\"[i])
			s = s[2:]
			continue
		}
		if len(s) < 4 {
			return "", strconv.ErrSyntax
		}
		c, err := strconv.ParseUint(s[1:4], 8, 8)
		if err != nil {
			return "", err
		}
		b.WriteByte(byte(c))
		s = s[4:]
	}
	return b.String(), nil
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "/a", "\\", "\n", "é\xffé", "\uFFFD", "\x80\\200", "\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := printable(s)
		if !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("printable(%q) = %q", s, p)
		}
		back, err := unprintable(p)
		if err != nil || back != s {
			t.Errorf("printable(%q) = %q, read back %q, %v", s, p, back, err)
		}
	})
}

func TestSplitErrors(t *testing.T) {
	a, b := usageError{strconv.ErrSyntax}, strconv.ErrRange
	var out strings.Builder
	printError(&out, &exitError{code: 1})
	if out.Len() > 0 {
		t.Errorf("nothing to say, said %q", out.String())
	}
	printError(&out, errors.Join(a, errors.Join(b, a)))
	if want := "layerfs: invalid syntax\nlayerfs: value out of range\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
