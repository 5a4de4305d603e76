package image

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func desc(mediaType string) string {
	return `{"mediaType":"` + mediaType + `","digest":"` + someDigest + `","size":7}`
}

func manifestWith(layers int) string {
	list := strings.TrimSuffix(strings.Repeat(desc(ocispec.MediaTypeImageLayer)+",", layers), ",")
	return `{"schemaVersion":2,"config":` + desc(ocispec.MediaTypeImageConfig) + `,"layers":[` + list + `]}`
}

func indexWith(entries int) string {
	list := strings.TrimSuffix(strings.Repeat(desc(ocispec.MediaTypeImageManifest)+",", entries), ",")
	return `{"schemaVersion":2,"manifests":[` + list + `]}`
}

func TestParseManifest(t *testing.T) {
	for name, doc := range map[string]string{
		"oci":            manifestWith(3),
		"no layers":      manifestWith(0),
		"null layers":    `{"schemaVersion":2,"config":` + desc(ocispec.MediaTypeImageConfig) + `,"layers":null}`,
		"docker":         `{"schemaVersion":2,"mediaType":"` + DockerManifest + `","config":` + desc(DockerConfig) + `,"layers":[` + desc(DockerLayerGzip) + `]}`,
		"most layers":    manifestWith(MaxLayers),
		"artifact":       `{"schemaVersion":2,"config":` + desc("application/x") + `,"layers":[],"artifactType":"a/b"}`,
		"unknown fields": `{"schemaVersion":2,"config":` + desc("application/x") + `,"layers":[],"x":{"y":[1e400]}}`,
		"annotations":    `{"schemaVersion":2,"config":` + desc("application/x") + `,"layers":[],"annotations":{"A":"1","a":"2"}}`,
	} {
		m, err := ParseManifest("", []byte(doc))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !IsManifest(m.MediaType) {
			t.Errorf("%s: media type %q", name, m.MediaType)
		}
		if _, err := ParseManifest(m.MediaType, []byte(doc)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ParseIndex("", []byte(doc)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: taken for an index: %v", name, err)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	c := desc(ocispec.MediaTypeImageConfig)
	layers := `"layers":[]`
	for name, doc := range map[string]string{
		"empty":                  ``,
		"null":                   `null`,
		"array":                  `[]`,
		"truncated":              manifestWith(1)[:50],
		"trailing":               manifestWith(1) + `{}`,
		"schema 1":               `{"schemaVersion":1,"fsLayers":[],"history":[]}`,
		"schema 1 hidden":        `{"schemaVersion":2,"fsLayers":[],"config":` + c + `,` + layers + `}`,
		"schema 3":               `{"schemaVersion":3,"config":` + c + `,` + layers + `}`,
		"no schema":              `{"config":` + c + `,` + layers + `}`,
		"schema is a string":     `{"schemaVersion":"2","config":` + c + `,` + layers + `}`,
		"two kinds":              `{"schemaVersion":2,"config":` + c + `,` + layers + `,"manifests":[]}`,
		"two kinds, other case":  `{"schemaVersion":2,"config":` + c + `,` + layers + `,"Manifests":[]}`,
		"index by type":          `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","config":` + c + `,` + layers + `}`,
		"unknown type":           `{"schemaVersion":2,"mediaType":"text/plain","config":` + c + `,` + layers + `}`,
		"no config":              `{"schemaVersion":2,` + layers + `}`,
		"key twice":              `{"schemaVersion":2,"config":` + c + `,` + layers + `,"layers":[` + c + `]}`,
		"key twice, other case":  `{"schemaVersion":2,"config":` + c + `,` + layers + `,"LAYERS":[` + c + `]}`,
		"key twice by folding":   `{"schemaVersion":2,"config":` + c + `,` + layers + `,"layer` + "\u017f" + `":[` + c + `]}`,
		"key twice below":        `{"schemaVersion":2,"config":{"mediaType":"a","digest":"` + someDigest + `","size":1,"size":2},` + layers + `}`,
		"label twice":            `{"schemaVersion":2,"config":` + c + `,` + layers + `,"annotations":{"a":"1","a":"2"}}`,
		"one layer too many":     manifestWith(MaxLayers + 1),
		"negative size":          strings.Replace(manifestWith(1), `"size":7`, `"size":-1`, 1),
		"size beyond the limit":  strings.Replace(manifestWith(1), `"size":7`, fmt.Sprintf(`"size":%d`, int64(MaxBlob)+1), 1),
		"size beyond int64":      strings.Replace(manifestWith(1), `"size":7`, `"size":9223372036854775808`, 1),
		"size as a float":        strings.Replace(manifestWith(1), `"size":7`, `"size":1e3`, 1),
		"config too large":       strings.Replace(manifestWith(0), `"size":7`, fmt.Sprintf(`"size":%d`, MaxConfig+1), 1),
		"digest of no algorithm": strings.Replace(manifestWith(1), someDigest, "md5:0123456789abcdef0123456789abcdef", 1),
		"digest as a path":       strings.Replace(manifestWith(1), someDigest, "sha256:../../../etc/passwd", 1),
		"no media type":          strings.Replace(manifestWith(1), ocispec.MediaTypeImageLayer, "", 1),
		"long media type":        strings.Replace(manifestWith(1), ocispec.MediaTypeImageLayer, strings.Repeat("a", MaxMediaType+1), 1),
		"too deep":               `{"schemaVersion":2,"config":` + c + `,` + layers + `,"x":` + strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth) + `}`,
		"too large":              manifestWith(1) + strings.Repeat(" ", MaxManifest),
		"too many values":        `{"x":[` + strings.Repeat("1,", MaxJSONValues) + `1]}`,
	} {
		if _, err := ParseManifest("", []byte(doc)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	deepest := `{"schemaVersion":2,"config":` + c + `,` + layers + `,"x":` + strings.Repeat("[", MaxJSONDepth-1) + strings.Repeat("]", MaxJSONDepth-1) + `}`
	if _, err := ParseManifest("", []byte(deepest)); err != nil {
		t.Errorf("at the limit of depth: %v", err)
	}
	// A document must be of the type under which it was referred to.
	if _, err := ParseManifest(DockerManifest, []byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+`","config":`+c+`,`+layers+`}`)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("other type than expected: %v", err)
	}
	if _, err := ParseManifest(dockerSchema1Signed, []byte(manifestWith(1))); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("schema 1: %v", err)
	}
}

func TestParseIndex(t *testing.T) {
	for name, c := range map[string]struct {
		doc string
		ok  bool
	}{
		"oci":            {indexWith(2), true},
		"empty":          {indexWith(0), true},
		"most":           {indexWith(MaxManifests), true},
		"one too many":   {indexWith(MaxManifests + 1), false},
		"list":           {`{"schemaVersion":2,"mediaType":"` + DockerManifestList + `","manifests":[]}`, true},
		"two kinds":      {`{"schemaVersion":2,"manifests":[],"layers":[]}`, false},
		"manifest":       {manifestWith(1), false},
		"manifest type":  {`{"schemaVersion":2,"mediaType":"` + DockerManifest + `","manifests":[]}`, false},
		"manifest 1 GiB": {strings.Replace(indexWith(1), `"size":7`, `"size":1073741824`, 1), false},
		"blob of 1 GiB":  {strings.NewReplacer(`"size":7`, `"size":1073741824`, ocispec.MediaTypeImageManifest, "a/b").Replace(indexWith(1)), true},
	} {
		_, err := ParseIndex("", []byte(c.doc))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseLayoutIndex([]byte(indexWith(MaxManifests + 1))); err != nil {
		t.Errorf("layout: %v", err)
	}
}

func configWith(diffIDs, history int) string {
	ids := strings.TrimSuffix(strings.Repeat(`"`+someDigest+`",`, diffIDs), ",")
	steps := strings.TrimSuffix(strings.Repeat(`{"empty_layer":true},`, history), ",")
	return `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[` + ids + `]},"history":[` + steps + `]}`
}

func TestParseConfig(t *testing.T) {
	old := `{"architecture":"amd64","os":"linux","created":"2014-01-01T00:00:00.5Z","container_config":{"Cmd":["x"]},
		"config":{"Hostname":"h","Cmd":"a b","Entrypoint":["/e"],"Env":null,"Labels":{"A":"1","a":"2"},"Healthcheck":{"Test":"NONE","Interval":1000}},
		"rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]},"moby.x":{"A":1}}`
	c, err := ParseConfig([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Config.Cmd) != 1 || c.Config.Cmd[0] != "a b" || c.Config.Healthcheck.Test[0] != "NONE" || len(c.Config.Labels) != 2 || c.Created.Nanosecond() != 5e8 {
		t.Errorf("%+v", c)
	}
	for name, doc := range map[string]string{
		"most layers":  configWith(MaxLayers, 0),
		"most history": configWith(0, MaxHistory),
		"null ids":     `{"rootfs":{"type":"layers","diff_ids":null}}`,
	} {
		if _, err := ParseConfig([]byte(doc)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, doc := range map[string]string{
		"empty":            ``,
		"null":             `null`,
		"no rootfs":        `{}`,
		"other rootfs":     `{"rootfs":{"type":"base"}}`,
		"too many layers":  configWith(MaxLayers+1, 0),
		"too much history": configWith(0, MaxHistory+1),
		"bad diff id":      `{"rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`,
		"rootfs twice":     `{"rootfs":{"type":"layers"},"Rootfs":{"type":"layers"}}`,
		"env of numbers":   `{"config":{"Env":[1]},"rootfs":{"type":"layers"}}`,
		"bad time":         `{"created":"yesterday","rootfs":{"type":"layers"}}`,
		"too large":        configWith(1, 1) + strings.Repeat(" ", MaxConfig),
	} {
		if _, err := ParseConfig([]byte(doc)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSelectPlatform(t *testing.T) {
	entry := func(platform string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(platform)}
		if platform == "" {
			return d
		}
		parts := append(strings.Split(platform, "/"), "", "")
		d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		return d
	}
	for _, c := range []struct {
		have []string
		want string
		got  string
	}{
		{[]string{"linux/arm64", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{[]string{"linux/amd64/v3", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{[]string{"linux/amd64", "linux/amd64/v3"}, "linux/amd64/v3", "linux/amd64/v3"},
		{[]string{"linux/amd64", "linux/amd64/v2"}, "linux/amd64/v3", "linux/amd64/v2"},
		{[]string{"linux/amd64/v3"}, "linux/amd64", "-"},
		{[]string{"linux/arm/v5", "linux/arm/v6"}, "linux/arm", "linux/arm/v6"},
		{[]string{"linux/arm/v5", "linux/arm/v7"}, "linux/arm/v6", "linux/arm/v5"},
		{[]string{"linux/arm64"}, "linux/arm64/v8", "linux/arm64"},
		{[]string{"linux/arm64/v8"}, "linux/aarch64", "linux/arm64/v8"},
		{[]string{"windows/amd64"}, "linux/amd64", "-"},
		{[]string{"unknown/unknown", ""}, "linux/amd64", ""},
		{[]string{"", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{[]string{"unknown/unknown"}, "unknown/unknown", "-"},
		{nil, "linux/amd64", "-"},
	} {
		var entries []ocispec.Descriptor
		for _, h := range c.have {
			entries = append(entries, entry(h))
		}
		want, err := ParsePlatform(c.want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := SelectPlatform(entries, want)
		switch {
		case c.got == "-":
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v for %s: %v, %v", c.have, c.want, got, err)
			}
		case err != nil || got.Digest != digest.FromString(c.got):
			t.Errorf("%v for %s: %v, %v", c.have, c.want, got, err)
		}
	}
	for _, s := range []string{"", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/" + strings.Repeat("a", 65)} {
		if _, err := ParsePlatform(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if p, err := ParsePlatform("arm64"); err != nil || p.Architecture != "arm64" || p.OS == "" {
		t.Error(p, err)
	}
}

func FuzzDocuments(f *testing.F) {
	for _, s := range []string{manifestWith(2), indexWith(2), configWith(1, 1), `{"a":{"a":1,"A":2}}`, `{"labels":{"a":1,"A":2}}`, `[[[`, ``, `{"schemaVersion":2,"manifests":[],"layers":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(err error) bool {
			if err != nil && !errors.Is(err, fs.ErrInvalid) {
				t.Fatal(err)
			}
			return err == nil
		}
		m, merr := ParseManifest("", data)
		x, xerr := ParseIndex("", data)
		if check(merr) && check(xerr) {
			t.Fatal("a manifest and an index at once")
		}
		check(xerr)
		if merr == nil && (len(m.Layers) > MaxLayers || !IsManifest(m.MediaType)) {
			t.Fatalf("%+v", m)
		}
		if xerr == nil && (len(x.Manifests) > MaxManifests || !IsIndex(x.MediaType)) {
			t.Fatalf("%+v", x)
		}
		c, err := ParseConfig(data)
		if !check(err) {
			return
		}
		// What can be parsed can be built on, and parsed again.
		parent := &Image{Config: c, RawConfig: data, Layers: make([]ocispec.Descriptor, len(c.RootFS.DiffIDs))}
		for i, d := range c.RootFS.DiffIDs {
			parent.Layers[i] = ocispec.Descriptor{MediaType: DockerLayer, Digest: d}
		}
		im, _, err := build(CommitOptions{Parent: parent, Changes: []string{"ENV a=b"}})
		if !check(err) {
			if len(c.History) < MaxHistory && len(data) < MaxConfig/2 {
				t.Fatal(err)
			}
			return
		}
		if !slicesHas(im.Config.Config.Env, "a=b") || len(im.DiffIDs()) != len(c.RootFS.DiffIDs) {
			t.Fatalf("%s", im.RawConfig)
		}
	})
}

func slicesHas(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}
