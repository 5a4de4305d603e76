package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// quoting explains printable in the help of the commands that use it.
const quoting = `A newline in a name is shown as \n, a tab as \t, a backslash as \\, and any other byte
that is not of a printable character as \ and three octal digits, so that a line is one
name and no two names look the same.`

// printable shows a name of any bytes in one line that a terminal can be given.
// Different names give different lines.
func printable(s string) string {
	var b strings.Builder
	whole := 0 // what is before it needs no quoting
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r != '\\' && strconv.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			i += n
			continue
		}
		b.WriteString(s[whole:i])
		for _, c := range []byte(s[i : i+n]) {
			switch c {
			case '\n':
				b.WriteString(`\n`)
			case '\t':
				b.WriteString(`\t`)
			case '\\':
				b.WriteString(`\\`)
			default:
				fmt.Fprintf(&b, `\%03o`, c)
			}
		}
		i += n
		whole = i
	}
	if whole == 0 {
		return s
	}
	b.WriteString(s[whole:])
	return b.String()
}

// raw returns the bytes of a name that JSON text cannot hold, else nil.
func raw(s string) []byte {
	if utf8.ValidString(s) {
		return nil
	}
	return []byte(s)
}
