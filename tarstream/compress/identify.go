package compress

import (
	"bytes"
	"context"
	_ "crypto/sha256" // digests name their hash, which must be linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Levels returns the levels worth trying to make a blob of format f again, the most
// likely first. Levels that give the same bytes as one before are left out.
func Levels(f Format) []Level {
	switch f {
	case Gzip:
		return []Level{Serial, Pgzip, DefaultLevel, Pgzip + 1, 1, Serial + 1, Pgzip + 9, 9, Serial + 9, Pgzip + 6, 6,
			2, 3, 4, 7, 8, Serial + 2, Serial + 3, Serial + 4, Serial + 5, Serial + 7, Serial + 8}
	case Zstd:
		return []Level{DefaultLevel, Serial, 1, 7, 11, Serial + 1, Serial + 7, Serial + 11}
	default:
		return nil
	}
}

// Identify tells whether [NewWriter] makes the blob with digest want, in format f, out
// of the tar that open opens, at one of the candidate levels, and at which. It
// compresses the whole tar once for each level that it tries; [Narrow] finds out
// cheaply which ones need no trying. The tar is closed each time.
func Identify(ctx context.Context, open func() (io.ReadCloser, error), want digest.Digest, f Format, candidates []Level) (Level, bool, error) {
	if err := want.Validate(); err != nil {
		return 0, false, fmt.Errorf("identify compression of %q: %w", want, err)
	}
	for _, level := range candidates {
		hash := want.Algorithm().Hash()
		if err := compressAll(ctx, open, hash, f, level); err != nil {
			return 0, false, fmt.Errorf("identify compression of %s: %w", want, err)
		}
		if digest.NewDigest(want.Algorithm(), hash) == want {
			return level, true, nil
		}
	}
	return 0, false, nil
}

// Narrow returns those of the candidate levels at which the compressed form of the tar
// that open opens begins with prefix, the first bytes of the blob, in their order. It
// compresses little more of the tar than it takes to make as many bytes as prefix has;
// a few hundred KiB of it usually leave the right level and those equal to it.
func Narrow(ctx context.Context, open func() (io.ReadCloser, error), prefix []byte, f Format, candidates []Level) ([]Level, error) {
	var left []Level
	for _, level := range candidates {
		m := &matcher{want: prefix}
		err := compressAll(ctx, open, m, f, level)
		if err != nil && !errors.Is(err, errDecided) {
			return nil, fmt.Errorf("narrow compression: %w", err)
		}
		if !m.differs && len(m.want) == 0 {
			left = append(left, level)
		}
	}
	return left, nil
}

// errDecided stops a compression whose result is known.
var errDecided = errors.New("prefix decided")

// matcher compares what is written to it with what it should be.
type matcher struct {
	want    []byte
	differs bool
}

func (m *matcher) Write(p []byte) (int, error) {
	n := min(len(p), len(m.want))
	if !bytes.Equal(p[:n], m.want[:n]) {
		m.differs = true
		return 0, errDecided
	}
	m.want = m.want[n:]
	if len(m.want) == 0 {
		return n, errDecided
	}
	return len(p), nil
}

func compressAll(ctx context.Context, open func() (io.ReadCloser, error), w io.Writer, f Format, level Level) (err error) {
	r, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	z, err := NewWriter(w, f, level)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(z, contextReader{ctx, r}, make([]byte, pumpBuffer))
	return errors.Join(err, z.Close())
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one call of compressAll
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
