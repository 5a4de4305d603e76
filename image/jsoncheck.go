package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"
)

// CheckJSON refuses what encoding/json would let pass and other parsers would read in
// another way: keys given twice (also in another case, which encoding/json treats as
// the same field), text after the document, and documents beyond limit bytes or the
// limits of nesting and number. An error wraps fs.ErrInvalid.
func CheckJSON(data []byte, limit int) error {
	_, err := checkJSON(data, limit)
	return err
}

// member is one member of an object; value is its part of the document.
type member struct {
	key   string
	value json.RawMessage
}

// checkJSON is CheckJSON, which also returns the members of a document that is an object.
func checkJSON(data []byte, limit int) ([]member, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("document of %d bytes, limit %d: %w", len(data), limit, fs.ErrInvalid)
	}
	c := jsonChecker{data: data}
	if err := c.value(nil, 0); err != nil {
		return nil, err
	}
	if c.space(); c.at < len(data) {
		return nil, fmt.Errorf("text after the end of the document: %w", fs.ErrInvalid)
	}
	return c.members, nil
}

// jsonChecker goes through a document once, by the grammar of RFC 8259 as encoding/json
// has it. Every mount checks a manifest and a config, which for some hundred layers are
// 100 KB: the tokens of a json.Decoder would cost ten times as much.
type jsonChecker struct {
	data    []byte
	at      int
	values  int
	members []member
}

func (c *jsonChecker) space() {
	for c.at < len(c.data) {
		switch c.data[c.at] {
		case ' ', '\t', '\r', '\n':
			c.at++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (c *jsonChecker) peek() byte {
	c.space()
	if c.at == len(c.data) {
		return 0
	}
	return c.data[c.at]
}

func (c *jsonChecker) invalid() error {
	if c.at >= len(c.data) {
		return fmt.Errorf("not JSON: it ends in the middle: %w", fs.ErrInvalid)
	}
	return fmt.Errorf("not JSON: unexpected %q at byte %d: %w", c.data[c.at], c.at, fs.ErrInvalid)
}

// expect takes one byte.
func (c *jsonChecker) expect(b byte) error {
	if c.peek() != b || c.at == len(c.data) {
		return c.invalid()
	}
	c.at++
	return nil
}

func (c *jsonChecker) count() error {
	if c.values++; c.values > MaxJSONValues {
		return fmt.Errorf("more than %d values: %w", MaxJSONValues, fs.ErrInvalid)
	}
	return nil
}

// value checks one value; name is the key it stands under.
func (c *jsonChecker) value(name []byte, depth int) error {
	if err := c.count(); err != nil {
		return err
	}
	b := c.peek()
	if depth++; (b == '{' || b == '[') && depth > MaxJSONDepth {
		return fmt.Errorf("nested deeper than %d: %w", MaxJSONDepth, fs.ErrInvalid)
	}
	switch b {
	case '{':
		return c.object(isFreeMap(string(name)), depth)
	case '[':
		return c.array(depth)
	case '"':
		_, err := c.text()
		return err
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		return c.number()
	}
}

func (c *jsonChecker) word(w string) error {
	for i := range len(w) {
		if c.at == len(c.data) || c.data[c.at] != w[i] {
			return c.invalid()
		}
		c.at++
	}
	return nil
}

func (c *jsonChecker) number() error {
	if c.at < len(c.data) && c.data[c.at] == '-' {
		c.at++
	}
	if c.at < len(c.data) && c.data[c.at] == '0' {
		c.at++
	} else if err := c.digits(); err != nil {
		return err
	}
	if c.at < len(c.data) && c.data[c.at] == '.' {
		c.at++
		if err := c.digits(); err != nil {
			return err
		}
	}
	if c.at < len(c.data) && c.data[c.at]|0x20 == 'e' {
		c.at++
		if c.at < len(c.data) && (c.data[c.at] == '+' || c.data[c.at] == '-') {
			c.at++
		}
		return c.digits()
	}
	return nil
}

// digits takes at least one.
func (c *jsonChecker) digits() error {
	start := c.at
	for c.at < len(c.data) && '0' <= c.data[c.at] && c.data[c.at] <= '9' {
		c.at++
	}
	if c.at == start {
		return c.invalid()
	}
	return nil
}

// text takes a string and returns what is between its quotes, as it stands.
func (c *jsonChecker) text() ([]byte, error) {
	if err := c.expect('"'); err != nil {
		return nil, err
	}
	for start := c.at; c.at < len(c.data); c.at++ {
		switch b := c.data[c.at]; {
		case b == '"':
			c.at++
			return c.data[start : c.at-1], nil
		case b == '\\':
			c.at++
			if err := c.escape(); err != nil {
				return nil, err
			}
		case b < ' ':
			return nil, c.invalid()
		}
	}
	return nil, c.invalid()
}

// escape checks what follows a backslash and stops at its last byte.
func (c *jsonChecker) escape() error {
	if c.at == len(c.data) || strings.IndexByte(`"\/bfnrtu`, c.data[c.at]) < 0 {
		return c.invalid()
	}
	if c.data[c.at] != 'u' {
		return nil
	}
	for range 4 {
		c.at++
		if c.at == len(c.data) || strings.IndexByte("0123456789abcdefABCDEF", c.data[c.at]) < 0 {
			return c.invalid()
		}
	}
	return nil
}

func (c *jsonChecker) array(depth int) error {
	c.at++
	if c.peek() == ']' {
		c.at++
		return nil
	}
	for {
		if err := c.value(nil, depth); err != nil {
			return err
		}
		if c.peek() != ',' {
			return c.expect(']')
		}
		c.at++
	}
}

// object checks an object. In a free one the keys are data.
func (c *jsonChecker) object(free bool, depth int) error {
	c.at++
	if c.peek() == '}' {
		c.at++
		return nil
	}
	var seen keySet
	for {
		if err := c.count(); err != nil {
			return err
		}
		raw, err := c.text()
		if err != nil {
			return err
		}
		key, err := plainKey(raw)
		if err != nil {
			return err
		}
		same := key
		if !free {
			same = foldBytes(key)
		}
		if !seen.add(same) {
			return fmt.Errorf("key %.100q is given twice: %w", key, fs.ErrInvalid)
		}
		if err := c.expect(':'); err != nil {
			return err
		}
		c.space()
		start := c.at
		if err := c.value(key, depth); err != nil {
			return err
		}
		if depth == 1 {
			c.members = append(c.members, member{key: string(key), value: c.data[start:c.at]})
		}
		if c.peek() != ',' {
			return c.expect('}')
		}
		c.at++
		if c.peek() != '"' {
			return c.invalid()
		}
	}
}

// plainKey resolves the escapes of a key, and bytes that are no UTF-8 as encoding/json
// does.
func plainKey(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return raw, nil
	}
	var s string
	err := unmarshal(append(append([]byte{'"'}, raw...), '"'), &s)
	return []byte(s), err
}

// fewKeys is up to how many keys an object's keys are compared one by one.
const fewKeys = 16

// keySet is a set of keys. The zero keySet is empty.
type keySet struct {
	few  [fewKeys][]byte
	n    int
	many map[string]struct{} // once there are more than a few
}

// add reports whether key is new.
func (s *keySet) add(key []byte) bool {
	if s.many == nil {
		for _, k := range s.few[:s.n] {
			if bytes.Equal(k, key) {
				return false
			}
		}
		if s.n < fewKeys {
			s.few[s.n] = key
			s.n++
			return true
		}
		s.many = make(map[string]struct{}, 2*fewKeys)
		for _, k := range s.few {
			s.many[string(k)] = struct{}{}
		}
	}
	if _, ok := s.many[string(key)]; ok {
		return false
	}
	s.many[string(key)] = struct{}{}
	return true
}

// isFreeMap tells the objects whose keys are data, where case distinguishes, from
// those whose keys are fields.
func isFreeMap(name string) bool {
	switch foldKey(name) {
	case "labels", "annotations", "volumes", "exposedports":
		return true
	}
	return false
}

// foldKey maps keys that encoding/json takes for the same field to one string.
func foldKey(s string) string { return strings.ToLower(strings.ToUpper(s)) }

// foldBytes is foldKey, which costs nothing for the usual key.
func foldBytes(key []byte) []byte {
	for _, b := range key {
		if 'A' <= b && b <= 'Z' || b >= utf8.RuneSelf {
			return []byte(foldKey(string(key)))
		}
	}
	return key
}
