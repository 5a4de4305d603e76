package cas

import (
	_ "crypto/sha256" // the algorithms of go-digest work once they are linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Validate refuses an Expect that contradicts itself or names an algorithm that is not
// available. The error wraps fs.ErrInvalid.
func (e Expect) Validate() error {
	if e.Digest != "" {
		if err := CheckDigest(e.Digest); err != nil {
			return err
		}
	} else if e.Algorithm != "" && !e.Algorithm.Available() {
		return fmt.Errorf("digest algorithm %.32q is not supported: %w", string(e.Algorithm), fs.ErrInvalid)
	}
	if e.Size < -1 {
		return fmt.Errorf("expected size of %d bytes: %w", e.Size, fs.ErrInvalid)
	}
	if e.Limit < 0 || e.Limit > 0 && e.Size > e.Limit {
		return fmt.Errorf("expected size of %d bytes, limit %d: %w", e.Size, e.Limit, fs.ErrInvalid)
	}
	return nil
}

// algorithm returns the algorithm in which the content is to be hashed.
func (e Expect) algorithm() digest.Algorithm {
	switch {
	case e.Digest != "":
		return e.Digest.Algorithm()
	case e.Algorithm != "":
		return e.Algorithm
	default:
		return digest.Canonical
	}
}

// CheckDigest returns nil for a well-formed digest of sha256, sha384 or sha512, and
// else an error that wraps fs.ErrInvalid. A digest that passes is safe as a file name.
func CheckDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.150q: %w: %w", string(d), err, fs.ErrInvalid)
	}
	return nil
}

// Verifier hashes and counts bytes and compares them with what was expected of them.
// It stores nothing. Not safe for concurrent use.
type Verifier struct {
	expect Expect
	alg    digest.Algorithm
	hash   hash.Hash
	size   int64
	err    error
}

// NewVerifier returns a Verifier for e, or an error that wraps fs.ErrInvalid when e is
// not valid.
func NewVerifier(e Expect) (*Verifier, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	alg := e.algorithm()
	return &Verifier{expect: e, alg: alg, hash: alg.Hash()}, nil
}

// Write takes the next bytes. When they would exceed the expected size or the limit,
// none of them is counted, and this and every later call fails: with [ErrCorrupt] for
// the size, with fs.ErrInvalid for the limit.
func (v *Verifier) Write(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n := int64(len(p))
	switch e := v.expect; {
	case e.Size >= 0 && n > e.Size-v.size:
		v.err = fmt.Errorf("verify %s: more bytes than the expected %d: %w", v.name(), e.Size, ErrCorrupt)
	case e.Limit > 0 && n > e.Limit-v.size:
		v.err = fmt.Errorf("verify %s: more bytes than the limit of %d: %w", v.name(), e.Limit, fs.ErrInvalid)
	}
	if v.err != nil {
		return 0, v.err
	}
	v.size += n
	return v.hash.Write(p)
}

// Sum returns digest and size of the bytes so far. The error wraps [ErrCorrupt] when
// they are not all of what was expected, or something else, and is the error of Write
// when that failed.
func (v *Verifier) Sum() (digest.Digest, int64, error) {
	if v.err != nil {
		return "", v.size, v.err
	}
	if v.expect.Size >= 0 && v.size != v.expect.Size {
		return "", v.size, fmt.Errorf("verify %s: %d bytes instead of %d: %w", v.name(), v.size, v.expect.Size, ErrCorrupt)
	}
	d := digest.NewDigest(v.alg, v.hash)
	if v.expect.Digest != "" && d != v.expect.Digest {
		return "", v.size, fmt.Errorf("verify %s: the bytes have digest %s: %w", v.name(), d, ErrCorrupt)
	}
	return d, v.size, nil
}

func (v *Verifier) name() string {
	if v.expect.Digest == "" {
		return "content"
	}
	return v.expect.Digest.String()
}

// NewVerifiedReader returns a reader of the bytes of r that ends with io.EOF only if
// they have the size and digest of e; otherwise the last Read returns an error that
// wraps [ErrCorrupt], at the latest when one byte more than expected is there. What
// has been read before that is not verified. An e that is not valid fails the first
// Read.
func NewVerifiedReader(r io.Reader, e Expect) io.Reader {
	v, err := NewVerifier(e)
	return &verifiedReader{r: r, v: v, err: err}
}

type verifiedReader struct {
	r   io.Reader
	v   *Verifier
	err error
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	if n > 0 {
		if _, verr := r.v.Write(p[:n]); verr != nil {
			r.err = verr
			return 0, verr
		}
	}
	if errors.Is(err, io.EOF) {
		if _, _, verr := r.v.Sum(); verr != nil {
			err = verr
		}
	}
	r.err = err
	return n, err
}
