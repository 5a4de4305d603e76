package cas_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/layerfs/layerfs/cas"
	"github.com/opencontainers/go-digest"
)

func TestErrCorruptIsInvalid(t *testing.T) {
	if !errors.Is(cas.ErrCorrupt, fs.ErrInvalid) {
		t.Error("ErrCorrupt is not of the class fs.ErrInvalid")
	}
}

func TestVerifiedReader(t *testing.T) {
	data := bytes.Repeat([]byte("layer"), 1000)
	d := digest.FromBytes(data)
	size := int64(len(data))
	for _, test := range []struct {
		name string
		e    cas.Expect
		in   []byte
		want error // nil for success
	}{
		{"sound", cas.Expect{Digest: d, Size: size}, data, nil},
		{"size unknown", cas.Expect{Digest: d, Size: -1}, data, nil},
		{"at the limit", cas.Expect{Digest: d, Size: -1, Limit: size}, data, nil},
		{"sha512", cas.Expect{Digest: digest.SHA512.FromBytes(data), Size: size}, data, nil},
		{"empty", cas.Expect{Digest: digest.FromString(""), Size: 0}, nil, nil},
		{"size only", cas.Expect{Size: size}, data, nil},
		{"flipped", cas.Expect{Digest: d, Size: size}, append([]byte("L"), data[1:]...), cas.ErrCorrupt},
		{"flipped, size unknown", cas.Expect{Digest: d, Size: -1}, append([]byte("L"), data[1:]...), cas.ErrCorrupt},
		{"short", cas.Expect{Digest: d, Size: size}, data[:len(data)-1], cas.ErrCorrupt},
		{"long", cas.Expect{Digest: d, Size: size}, append(bytes.Clone(data), 0), cas.ErrCorrupt},
		{"beyond the limit", cas.Expect{Digest: d, Size: -1, Limit: size - 1}, data, fs.ErrInvalid},
		{"no digest", cas.Expect{Digest: "sha256:abc", Size: size}, data, fs.ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, r := range []io.Reader{
				bytes.NewReader(test.in),
				iotest.OneByteReader(bytes.NewReader(test.in)),
				iotest.DataErrReader(bytes.NewReader(test.in)),
			} {
				r := cas.NewVerifiedReader(r, test.e)
				got, err := io.ReadAll(r)
				if !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if test.want == nil && !bytes.Equal(got, test.in) {
					t.Error("other bytes come out than went in")
				}
				if _, again := r.Read(make([]byte, 1)); test.want != nil && !errors.Is(again, test.want) {
					t.Errorf("the next Read returns %v, want %v", again, test.want)
				}
			}
		})
	}
}

// An endless source is given up on as soon as it exceeds what is expected.
func TestVerifiedReaderEndless(t *testing.T) {
	src := &counter{}
	_, err := io.Copy(io.Discard, cas.NewVerifiedReader(src, cas.Expect{Size: 1000}))
	if !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
	if src.n > 1<<20 {
		t.Errorf("%d bytes were read for an expected 1000", src.n)
	}
}

// counter is an endless source of zeros.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func TestVerifiedReaderPassesErrors(t *testing.T) {
	broken := errors.New("broken")
	r := cas.NewVerifiedReader(iotest.ErrReader(broken), cas.Expect{Size: -1})
	if _, err := io.ReadAll(r); !errors.Is(err, broken) {
		t.Errorf("error %v, want the one of the source", err)
	}
}

func FuzzCheckDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("0f", 32))
	f.Add("sha512:" + strings.Repeat("0f", 64))
	f.Add("sha256:../" + strings.Repeat("0", 61))
	f.Add("md5:00")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		err := cas.CheckDigest(digest.Digest(s))
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error %v does not wrap fs.ErrInvalid", err)
			}
			return
		}
		d := digest.Digest(s)
		if strings.Trim(d.Encoded(), "0123456789abcdef") != "" || len(d.Encoded()) != 2*d.Algorithm().Size() {
			t.Errorf("%q passes, and is not safe as a file name", s)
		}
	})
}
