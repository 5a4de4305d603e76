package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
)

// tokenCheck is CheckJSON by the tokens of encoding/json, without limits.
func tokenCheck(data []byte) error {
	if !json.Valid(data) {
		return errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value func(name string) error
	value = func(name string) error {
		t, err := d.Token()
		if err != nil {
			return err
		}
		delim, ok := t.(json.Delim)
		if !ok {
			return nil
		}
		seen := map[string]bool{}
		for d.More() {
			key := ""
			if delim == '{' {
				t, err := d.Token()
				if err != nil {
					return err
				}
				key = t.(string)
				same := key
				if !isFreeMap(name) {
					same = foldKey(key)
				}
				if seen[same] {
					return fmt.Errorf("key %q is given twice", key)
				}
				seen[same] = true
			}
			if err := value(key); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	}
	if err := value(""); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("text after the end")
	}
	return nil
}

func jsonSamples() []string {
	many := func(n int, more string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		return "{" + b.String() + more + "}"
	}
	return []string{
		``, ` `, `null`, `true`, `false`, `nul`, `nullx`, `{}`, `[]`, ` { } `, `[ ]`, `{"a":1}`, `{"a":1,}`, `[1,]`, `[,1]`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`,
		`0`, `-0`, `-`, `01`, `1.`, `.5`, `1.5e`, `1e+`, `1E-5`, `1e5x`, `+1`, `-1.25e+10`, `0x10`, `1 2`,
		`"`, `"a`, `"\`, `"\x"`, `"\u12"`, `"\u123g"`, `"\u00e9\n\/\b\f\r\t\\\""`, "\"a\nb\"", "\"\x00\"", "\"\xff\"", "\x00", "{\x00}", "[1,\x00]",
		`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"a":1,"\u0061":2}`, `{"\u0041":1,"a":2}`, `{"k":1,"` + "\u212a" + `":2}`, `{"s":1,"` + "\u017f" + `":2}`, "{\"\xff\":1,\"\xfe\":2}",
		`{"labels":{"a":1,"A":2}}`, `{"Labels":{"a":1,"a":2}}`, `{"l\u0061bels":{"a":1,"A":2}}`, `{"x":{"labels":[{"a":1,"A":2}]}}`,
		many(fewKeys-1, `"x":1`), many(fewKeys-1, `"K3":1`), many(fewKeys, `"x":1`), many(fewKeys, `"K3":1`), many(3*fewKeys, `"x":1`), many(3*fewKeys, `"k20":1`), many(3*fewKeys, `"K20":1`),
		`[[[`, `[[[]]]`, `[]]`, `{}}`, `[1}`, `{"a":[{"b":null},{"b":[true,false]}]}`,
	}
}

// agrees fails t unless CheckJSON and encoding/json think the same of a document.
func agrees(t *testing.T, data []byte) {
	t.Helper()
	want, got := tokenCheck(data), CheckJSON(data, len(data))
	if (want == nil) != (got == nil) || got != nil && !errors.Is(got, fs.ErrInvalid) {
		t.Errorf("%.200q: %v, want %v", data, got, want)
	}
}

func TestCheckJSON(t *testing.T) {
	for _, doc := range jsonSamples() {
		agrees(t, []byte(doc))
	}
	for name, c := range map[string]struct {
		doc string
		ok  bool
	}{
		"deepest":        {strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth), true},
		"too deep":       {strings.Repeat("[", MaxJSONDepth+1) + strings.Repeat("]", MaxJSONDepth+1), false},
		"most values":    {"[" + strings.Repeat("1,", MaxJSONValues-2) + "1]", true},
		"too many":       {"[" + strings.Repeat("1,", MaxJSONValues-1) + "1]", false},
		"most members":   {`{"a":[` + strings.Repeat("1,", MaxJSONValues-4) + `1]}`, true},
		"a key too many": {`{"a":[` + strings.Repeat("1,", MaxJSONValues-3) + `1]}`, false},
	} {
		if err := CheckJSON([]byte(c.doc), len(c.doc)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err := CheckJSON([]byte(c.doc), len(c.doc)-1); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: one byte over the limit: %v", name, err)
		}
	}
}

func TestCheckJSONMembers(t *testing.T) {
	members, err := checkJSON([]byte(` { "a" : [1, {"x":2}] , "\u0062":"c" } `), 100)
	if err != nil || fmt.Sprintf("%s", members) != `[{a [1, {"x":2}]} {b "c"}]` {
		t.Errorf("%s, %v", members, err)
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, doc := range jsonSamples() {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) <= MaxJSONDepth {
			agrees(t, data)
		}
	})
}

func BenchmarkParseManifest(b *testing.B) {
	doc := []byte(manifestWith(400))
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseManifest("", doc); err != nil {
			b.Fatal(err)
		}
	}
}
