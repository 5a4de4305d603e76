package compress

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// zstdBlock is the size of the input of one frame: as large as the window of the
// default level, so that little is lost by starting anew.
const zstdBlock = 8 << 20

// zstdEncoder compresses one block as one frame.
type zstdEncoder struct{ e *zstd.Encoder }

// newZstdEncoder makes an encoder whose frames any decoder accepts: the window stays at
// the 8 MiB that RFC 8878 recommends to support, and each frame carries its checksum.
func newZstdEncoder(level Level) (blockEncoder, error) {
	if level == DefaultLevel {
		level = 3
	}
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(int(level))),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(zstdBlock),
		zstd.WithLowerEncoderMem(true))
	return zstdEncoder{e}, err
}

func (z zstdEncoder) encode(b *block) error {
	b.out = z.e.EncodeAll(b.in, b.out[:0])
	return nil
}

// zstdEmpty is the frame of no content, written when the stream has none at all: magic
// number, a descriptor with checksum and a single segment of 0 bytes, one last raw
// block of 0 bytes, and the low half of XXH64("").
func zstdEmpty() []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51}
}

// newParallelZstd writes independent frames, each of zstdBlock bytes but the last.
func newParallelZstd(w io.Writer, level Level, workers int) io.WriteCloser {
	var size int64
	p := &parallel{
		w: w, size: zstdBlock, workers: workers,
		newWorker: func() (blockEncoder, error) { return newZstdEncoder(level) },
		observe:   func(b []byte) { size += int64(len(b)) },
		trailer: func() []byte {
			if size == 0 {
				return zstdEmpty()
			}
			return nil
		},
	}
	return p.start()
}

// newSerialZstd hides the encoder's ReadFrom, with which the result would depend on how
// the writes are cut.
func newSerialZstd(w io.Writer, level Level) (io.WriteCloser, error) {
	opts := []zstd.EOption{zstd.WithEncoderConcurrency(1)}
	if level != DefaultLevel {
		opts = append(opts, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(int(level))))
	}
	e, err := zstd.NewWriter(w, opts...)
	return struct{ io.WriteCloser }{e}, err
}
