package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// CheckJSON refuses what encoding/json would let pass and other parsers would read in
// another way: keys given twice (also in another case, which encoding/json treats as
// the same field), text after the document, and documents beyond limit bytes or the
// limits of nesting and number. An error wraps fs.ErrInvalid.
func CheckJSON(data []byte, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("document of %d bytes, limit %d: %w", len(data), limit, fs.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	c := jsonChecker{decoder: d}
	if err := c.value("", 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("text after the end of the document: %w", fs.ErrInvalid)
	}
	return nil
}

type jsonChecker struct {
	decoder *json.Decoder
	values  int
}

func (c *jsonChecker) token() (json.Token, error) {
	if c.values++; c.values > MaxJSONValues {
		return nil, fmt.Errorf("more than %d values: %w", MaxJSONValues, fs.ErrInvalid)
	}
	t, err := c.decoder.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w: %w", err, fs.ErrInvalid)
	}
	return t, nil
}

// value checks one value; name is the key it stands under.
func (c *jsonChecker) value(name string, depth int) error {
	t, err := c.token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth++; depth > MaxJSONDepth {
		return fmt.Errorf("nested deeper than %d: %w", MaxJSONDepth, fs.ErrInvalid)
	}
	if delim == '[' {
		for c.decoder.More() {
			if err := c.value("", depth); err != nil {
				return err
			}
		}
		_, err = c.token()
		return err
	}
	free := isFreeMap(name)
	seen := make(map[string]bool)
	for c.decoder.More() {
		t, err := c.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("not JSON: key %v is no string: %w", t, fs.ErrInvalid)
		}
		same := key
		if !free {
			same = foldKey(key)
		}
		if seen[same] {
			return fmt.Errorf("key %.100q is given twice: %w", key, fs.ErrInvalid)
		}
		seen[same] = true
		if err := c.value(key, depth); err != nil {
			return err
		}
	}
	_, err = c.token()
	return err
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

// object is a JSON object whose members keep their order and their bytes.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

// parseObject takes apart one object that passed CheckJSON; null is an empty one.
func parseObject(data []byte) (*object, error) {
	o := &object{values: make(map[string]json.RawMessage)}
	if trimmed := bytes.TrimSpace(data); len(trimmed) == 0 || string(trimmed) == "null" {
		return o, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object: %w", fs.ErrInvalid)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w: %w", err, fs.ErrInvalid)
		}
		key, _ := t.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("not JSON: %w: %w", err, fs.ErrInvalid)
		}
		if _, ok := o.values[key]; !ok {
			o.keys = append(o.keys, key)
		}
		o.values[key] = value
	}
	return o, nil
}

// find returns the key under which a field stands, in whatever case.
func (o *object) find(field string) (string, bool) {
	if _, ok := o.values[field]; ok {
		return field, true
	}
	for _, key := range o.keys {
		if foldKey(key) == foldKey(field) {
			return key, true
		}
	}
	return field, false
}

func (o *object) raw(field string) json.RawMessage {
	key, _ := o.find(field)
	return o.values[key]
}

func (o *object) set(field string, value any) error {
	raw, err := encodeJSON(value)
	if err != nil {
		return err
	}
	key, ok := o.find(field)
	if !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = raw
	return nil
}

func (o *object) drop(field string) {
	if key, ok := o.find(field); ok {
		delete(o.values, key)
		o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
	}
}

func (o *object) bytes() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, key := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		k, err := encodeJSON(key)
		if err != nil {
			return nil, err
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(o.values[key])
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// encodeJSON is json.Marshal without the escapes that only HTML needs: a command line
// with "&&" in a history stays readable.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// unmarshal decodes a document that passed CheckJSON; numbers that do not fit their
// field are refused by encoding/json.
func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	return nil
}
