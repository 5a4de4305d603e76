package compress

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"time"

	"github.com/klauspost/compress/flate"
)

// The geometry of parallel gzip is that of klauspost/pgzip, so that its blobs can be made
// again byte by byte where the encoder below both is of the same generation. 16 KiB of
// dictionary instead of the 32 KiB that DEFLATE allows is the price, and small: it counts
// in the first 16 KiB of each MiB only.
const (
	gzipBlock = 1 << 20
	gzipDict  = 16 << 10
)

// gzipLevel is the default of the parallel encoder's library, spelt out because it is
// part of the result.
const gzipLevel = flate.DefaultCompression

// gzipEncoder compresses one block as a run of DEFLATE blocks that ends on a byte.
type gzipEncoder struct{ w *flate.Writer }

func newGzipEncoder(level int) (blockEncoder, error) {
	w, err := flate.NewWriter(nil, level)
	if err != nil {
		return nil, err
	}
	return gzipEncoder{w}, nil
}

func (e gzipEncoder) encode(b *block) error {
	out := bytes.NewBuffer(b.out[:0])
	e.w.ResetDict(out, b.dict)
	if _, err := e.w.Write(b.in); err != nil {
		return err
	}
	if err := e.w.Flush(); err != nil {
		return err
	}
	if b.last {
		if err := e.w.Close(); err != nil {
			return err
		}
	}
	b.out = out.Bytes()
	return nil
}

// newParallelGzip writes one gzip member (RFC 1952) without name, and without time or, as
// pgzip does, with the low 32 bits of the zero time.
func newParallelGzip(w io.Writer, level Level, zeroTime bool, workers int) io.WriteCloser {
	n := int(level)
	if level == DefaultLevel {
		n = gzipLevel
	}
	var extra byte // the XFL field
	switch n {
	case flate.BestCompression:
		extra = 2
	case flate.BestSpeed:
		extra = 4
	}
	header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra, 255} // system 255: unknown
	if zeroTime {
		binary.LittleEndian.PutUint32(header[4:], uint32(time.Time{}.Unix()))
	}
	var sum uint32
	var size int64
	p := &parallel{
		w: w, size: gzipBlock, dict: gzipDict, workers: workers,
		newWorker: func() (blockEncoder, error) { return newGzipEncoder(n) },
		header:    header,
		observe: func(b []byte) {
			sum = crc32.Update(sum, crc32.IEEETable, b)
			size += int64(len(b))
		},
		trailer: func() []byte {
			return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, sum), uint32(size))
		},
	}
	return p.start()
}

func newSerialGzip(w io.Writer, level Level) (io.WriteCloser, error) {
	if level == DefaultLevel {
		return stdgzip.NewWriter(w), nil
	}
	return stdgzip.NewWriterLevel(w, int(level))
}
