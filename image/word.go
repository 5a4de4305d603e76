package image

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitWords splits a line at white space outside quotes. Quotes and backslashes stay
// in the words, for expandWord to act on.
func splitWords(s string) []string {
	var (
		words  []string
		word   strings.Builder
		quote  rune // 0 outside quotes
		inWord bool
	)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		raw := s[i : i+n]
		i += n
		switch {
		case quote == 0 && unicode.IsSpace(r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
			continue
		case r == '\\' && quote != '\'':
			if i == len(s) {
				continue // a backslash at the very end escapes nothing
			}
			_, n := utf8.DecodeRuneInString(s[i:])
			raw = s[i-1 : i+n]
			i += n
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case r == quote:
			quote = 0
		}
		inWord = true
		word.WriteString(raw)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// expandWord removes quotes and backslashes and replaces variables, as the Dockerfile
// does with one word. env is "key=value" entries.
func expandWord(s string, env []string) (string, error) {
	x := expander{in: s, env: env}
	if err := x.until(0, 0); err != nil {
		return "", err
	}
	return x.word.String(), nil
}

// expandWords is expandWord for a line of words: what variables bring in is split at
// its white space too.
func expandWords(s string, env []string) ([]string, error) {
	x := expander{in: s, env: env, split: true}
	if err := x.until(0, 0); err != nil {
		return nil, err
	}
	if x.word.Len() > 0 {
		x.words = append(x.words, x.word.String())
	}
	return x.words, nil
}

// maxExpansion bounds what nested default values and repeated variables may grow to.
const maxExpansion = 4 << 20

// maxNesting is how deep ${a:-${b:-…}} may nest.
const maxNesting = 100

type expander struct {
	in    string
	pos   int
	env   []string
	split bool
	word  strings.Builder
	words []string
	size  int // bytes in words
}

func (x *expander) next() (rune, bool) {
	if x.pos >= len(x.in) {
		return 0, false
	}
	r, n := utf8.DecodeRuneInString(x.in[x.pos:])
	x.pos += n
	return r, true
}

func (x *expander) peek() byte {
	if x.pos >= len(x.in) {
		return 0
	}
	return x.in[x.pos]
}

// literal adds text that is never split.
func (x *expander) literal(s string) { x.word.WriteString(s) }

// plain adds text that is split at white space when words are wanted.
func (x *expander) plain(s string) {
	if !x.split {
		x.word.WriteString(s)
		return
	}
	for _, r := range s {
		if !unicode.IsSpace(r) {
			x.word.WriteRune(r)
		} else if x.word.Len() > 0 {
			x.size += x.word.Len()
			x.words = append(x.words, x.word.String())
			x.word.Reset()
		}
	}
}

// until expands up to the byte stop, which it consumes, or to the end when stop is 0.
func (x *expander) until(stop byte, depth int) error {
	if depth > maxNesting {
		return invalid("variables nested deeper than %d", maxNesting)
	}
	for x.pos < len(x.in) {
		if x.size+x.word.Len() > maxExpansion {
			return invalid("expands to more than %d bytes", maxExpansion)
		}
		start := x.pos
		r, _ := x.next()
		switch {
		case stop != 0 && r == rune(stop):
			return nil
		case r == '\'':
			text, ok := x.singleQuoted()
			if !ok {
				return invalid("a single quote is not closed")
			}
			x.literal(text)
		case r == '"':
			if err := x.doubleQuoted(depth); err != nil {
				return err
			}
		case r == '$':
			value, err := x.variable(depth)
			if err != nil {
				return err
			}
			x.plain(value)
		case r == '\\':
			from := x.pos
			if _, ok := x.next(); ok {
				x.literal(x.in[from:x.pos])
			}
		default:
			x.plain(x.in[start:x.pos])
		}
	}
	if stop != 0 {
		return invalid("%q is missing", stop)
	}
	return nil
}

func (x *expander) singleQuoted() (string, bool) {
	text, _, ok := strings.Cut(x.in[x.pos:], "'")
	x.pos += len(text) + 1
	return text, ok
}

func (x *expander) doubleQuoted(depth int) error {
	for x.pos < len(x.in) {
		if x.size+x.word.Len() > maxExpansion {
			return invalid("expands to more than %d bytes", maxExpansion)
		}
		start := x.pos
		r, _ := x.next()
		switch r {
		case '"':
			return nil
		case '$':
			value, err := x.variable(depth)
			if err != nil {
				return err
			}
			x.literal(value)
		case '\\':
			// Only these three can be escaped in double quotes.
			switch c := x.peek(); c {
			case 0:
			case '"', '$', '\\':
				x.pos++
				x.literal(string(c))
			default:
				x.literal(`\`)
			}
		default:
			x.literal(x.in[start:x.pos])
		}
	}
	return invalid("a double quote is not closed")
}

// variable expands what follows a '$'.
func (x *expander) variable(depth int) (string, error) {
	if x.peek() != '{' {
		name := x.name()
		if name == "" {
			return "$", nil
		}
		value, _ := x.lookup(name)
		return value, nil
	}
	x.pos++
	name := x.name()
	if name == "" {
		return "", invalid("bad substitution in %.100q", x.in)
	}
	value, set := x.lookup(name)
	op := x.peek()
	x.pos++
	emptyCounts := false
	if op == ':' {
		emptyCounts = true
		op = x.peek()
		x.pos++
	}
	switch {
	case op == '}' && !emptyCounts:
		return value, nil
	case op == 0:
		return "", invalid("'}' is missing after the variable %s", name)
	case op != '-' && op != '+' && op != '?':
		return "", invalid("substitution of the variable %s by %q is not known, only - + ? and :- :+ :? are", name, op)
	}
	if x.pos > len(x.in) {
		x.pos = len(x.in)
	}
	inner := expander{in: x.in, pos: x.pos, env: x.env}
	if err := inner.until('}', depth+1); err != nil {
		return "", err
	}
	x.pos = inner.pos
	word := inner.word.String()
	missing := !set || (emptyCounts && value == "")
	switch {
	case op == '-' && missing, op == '+' && !missing:
		return word, nil
	case op == '+':
		return "", nil
	case op == '?' && missing:
		if word == "" {
			word = "is not set"
		}
		return "", invalid("variable %s: %s", name, word)
	}
	return value, nil
}

// name reads the name of a variable: letters, digits and underscores, or digits alone,
// or one of the special parameters of the shell, which are never set here.
func (x *expander) name() string {
	start := x.pos
	if c := x.peek(); c != 0 && strings.IndexByte("@*#?-$!", c) >= 0 {
		x.pos++
		return x.in[start:x.pos]
	}
	digits := x.peek() >= '0' && x.peek() <= '9'
	for x.pos < len(x.in) {
		r, n := utf8.DecodeRuneInString(x.in[x.pos:])
		if digits && !unicode.IsDigit(r) || r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			break
		}
		x.pos += n
	}
	return x.in[start:x.pos]
}

// lookup takes the last of several entries of one name.
func (x *expander) lookup(name string) (string, bool) {
	value, set := "", false
	for _, entry := range x.env {
		if k, v, _ := strings.Cut(entry, "="); k == name {
			value, set = v, true
		}
	}
	return value, set
}
