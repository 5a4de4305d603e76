// Package cas is the contract of a content-addressed store: what it means to hold
// bytes under the digest of those bytes. It does no I/O; cas/disk implements it on a
// local file system and cas/castest asserts every sentence written here.
package cas

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

// ErrCorrupt is wrapped by errors that say that bytes do not match the digest or the
// size under which they were expected or stored. It is of the class fs.ErrInvalid.
var ErrCorrupt = fmt.Errorf("content does not match its digest: %w", fs.ErrInvalid)

// Info describes stored content.
type Info struct {
	Digest  digest.Digest
	Size    int64 // bytes
	ModTime time.Time
}

// Reader gives random access to stored content. The caller closes it. It is safe for
// concurrent use, and stays readable when the content is removed meanwhile.
type Reader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Provider finds content. An unknown digest is an error that wraps fs.ErrNotExist; a
// malformed one, or one of an algorithm that the store does not serve, wraps
// fs.ErrInvalid. Bytes are not verified again on the way out; wrap them with
// [NewVerifiedReader] where that is wanted.
type Provider interface {
	Open(ctx context.Context, d digest.Digest) (Reader, error)
	Stat(ctx context.Context, d digest.Digest) (Info, error)
}

// Walker visits all content, in no order, until fn fails, and returns fn's error as it
// is; content that comes or goes meanwhile may or may not be visited.
type Walker interface {
	Walk(ctx context.Context, fn func(Info) error) error
}

// Remover removes content at once. Removing what is not there wraps fs.ErrNotExist.
type Remover interface {
	Remove(ctx context.Context, d digest.Digest) error
}

// Expect says what is known of content before it is written.
type Expect struct {
	Digest    digest.Digest    // "" when unknown
	Size      int64            // bytes; -1 when unknown
	Algorithm digest.Algorithm // used when Digest is "", canonical when empty
	Limit     int64            // refuse more bytes than this; 0 is no limit
}

// Writer takes the bytes of one content, hashing and counting on the way. A Write
// that would exceed the expected size fails at once and wraps [ErrCorrupt]; one that
// would exceed the limit wraps fs.ErrInvalid. Commit checks size and digest and hands
// the content to the batch; a mismatch wraps [ErrCorrupt]. A writer that failed cannot
// be committed. Close without Commit discards; Close after Commit does nothing. Not
// safe for concurrent use.
type Writer interface {
	io.Writer
	Commit(ctx context.Context) (Info, error)
	Close() error
}

// Batch collects content that becomes visible together. Nothing of it is visible
// before Publish is called; Publish makes nothing visible before all of it is on
// stable storage; when Publish has returned nil, all of it is visible and stays so
// after a power cut. Publish may be called again after more content was added; it does
// not take in writers that are not committed yet. Close discards what was not
// published, and makes the writers still open fail; Close again does nothing.
// Create, Publish and different writers may be used concurrently.
//
// Putting content that is there already, in the store or in the batch, costs its
// hashing and stores nothing; if it is removed before Publish, Publish fails and wraps
// fs.ErrNotExist, and the work is to be repeated in a new batch. Where another batch is writing the content of e.Digest
// just now, Create may wait until that batch is published or closed, or ctx ends.
// Create refuses an Expect that contradicts itself, or asks for an algorithm that the
// store does not serve, with an error that wraps fs.ErrInvalid.
type Batch interface {
	Create(ctx context.Context, e Expect) (Writer, error)
	Publish(ctx context.Context) error
	Close() error
}

// Store is everything together.
type Store interface {
	Provider
	Walker
	Remover
	Begin(ctx context.Context) (Batch, error)
}

// ObjectWriter takes the contents of one large file whose id is known only at the
// end. Skip leaves a hole of n bytes, which reads as zeros. Commit is given the id
// that the caller has computed over all bytes, holes included. Close without Commit
// discards.
type ObjectWriter interface {
	io.Writer
	Skip(n int64) error
	Commit(id tree.ObjectID) error
	Close() error
}

// ObjectSink takes file contents into a batch. Both methods are safe for concurrent
// use; data may be reused by the caller after PutObject returns.
type ObjectSink interface {
	// PutObject stores data under id, which the caller has computed.
	PutObject(ctx context.Context, id tree.ObjectID, data []byte) error
	// CreateObject begins an object of size bytes, holes included.
	CreateObject(ctx context.Context, size int64) (ObjectWriter, error)
}

// ObjectSource opens file contents by id; an unknown id wraps fs.ErrNotExist.
type ObjectSource interface {
	OpenObject(ctx context.Context, id tree.ObjectID) (Reader, error)
}
