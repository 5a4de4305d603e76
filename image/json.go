package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
)

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
