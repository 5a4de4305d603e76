package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/layerfs/layerfs/tree"
)

// ErrObject is wrapped by the error of [Image.ReadAt] for a file whose content is an
// object and not in the image.
var ErrObject = errors.New("content is an object")

// span returns the bytes of a block of flat data, which is whole but for the last one.
// The slice aliases the image.
func (im *Image) span(n NID, r *inode, block int64) ([]byte, error) {
	start := block << blockBits
	length := min(r.size-start, BlockSize)
	at := int64(r.u)<<blockBits + start
	switch r.layout {
	case flatPlain:
	case flatInline:
		if length < BlockSize || start+length == r.size {
			at = r.data
			if at&(BlockSize-1)+length > BlockSize {
				return nil, corrupt("tail of inode %d crosses a block", n)
			}
		}
	default:
		return nil, corrupt("inode %d is not of flat data", n)
	}
	if at < 0 || at > int64(len(im.b))-length {
		return nil, corrupt("data of inode %d lies outside", n)
	}
	return im.b[at : at+length : at+length], nil
}

// flat returns all of an inode's data as one string.
func (im *Image) flat(n NID, r *inode) (string, error) {
	if r.size > int64(len(im.b)) {
		return "", corrupt("inode %d has a size of %d", n, r.size)
	}
	if r.size <= BlockSize {
		if r.size == 0 {
			return "", nil
		}
		b, err := im.span(n, r, 0)
		return string(b), err
	}
	var s strings.Builder
	// Both ends are looked at before anything is allocated.
	blocks := (r.size + BlockSize - 1) >> blockBits
	for _, block := range []int64{0, blocks - 2, blocks - 1} {
		if _, err := im.span(n, r, block); err != nil {
			return "", err
		}
	}
	s.Grow(int(r.size))
	for block := range blocks {
		b, err := im.span(n, r, block)
		if err != nil {
			return "", err
		}
		s.Write(b)
	}
	return s.String(), nil
}

// Readlink returns the target of a symbolic link.
func (im *Image) Readlink(n NID) (string, error) {
	r, err := im.inode(n)
	if err != nil {
		return "", err
	}
	return im.readlink(n, &r)
}

func (im *Image) readlink(n NID, r *inode) (string, error) {
	if r.mode&modeType != modeSymlink {
		return "", notA(n, "symbolic link")
	}
	if r.size == 0 || r.size > tree.MaxLink {
		return "", corrupt("link %d has a target of %d bytes", n, r.size)
	}
	target, err := im.flat(n, r)
	if err != nil {
		return "", err
	}
	if strings.IndexByte(target, 0) >= 0 {
		return "", corrupt("link %d has a target with a NUL byte", n)
	}
	return target, nil
}

// ReadAt reads content that is in the image, as io.ReaderAt does. For a file whose
// content is an object the error wraps [ErrObject].
func (im *Image) ReadAt(n NID, p []byte, off int64) (int, error) {
	r, err := im.inode(n)
	switch {
	case err != nil:
		return 0, err
	case r.mode&modeType != modeRegular:
		return 0, notA(n, "regular file")
	case off < 0:
		return 0, fmt.Errorf("read inode %d at %d: %w", n, off, fs.ErrInvalid)
	case off >= r.size:
		return 0, io.EOF
	}
	if r.layout == chunkBased {
		_, object, err := im.object(n, &r)
		if err != nil {
			return 0, err
		}
		if object {
			return 0, fmt.Errorf("read inode %d: %w", n, ErrObject)
		}
	}
	done := 0
	for done < len(p) && off < r.size {
		k := 0
		if r.layout == chunkBased {
			k, err = im.readChunk(n, &r, p[done:], off)
		} else {
			var b []byte
			b, err = im.span(n, &r, off>>blockBits)
			if err == nil {
				k = copy(p[done:], b[off&(BlockSize-1):])
			}
		}
		if err != nil {
			return done, err
		}
		done += k
		off += int64(k)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readChunk reads from a file in chunks, up to the end of one of them.
func (im *Image) readChunk(n NID, r *inode, p []byte, off int64) (int, error) {
	shift := r.u&maxChunkBits + blockBits
	if r.u&0xffff&^(maxChunkBits|chunkIndexFlag) != 0 {
		return 0, fmt.Errorf("inode %d of EROFS image has chunk format %#x: %w", n, r.u, errors.ErrUnsupported)
	}
	unit := int64(chunkEntry)
	if r.u&chunkIndexFlag != 0 {
		unit = chunkIndex
	}
	number := off >> shift
	table := alignUp(r.data, unit)
	if number >= (int64(len(im.b))-table)/unit {
		return 0, corrupt("chunk map of inode %d lies outside", n)
	}
	entry := im.b[table+number*unit:]
	if unit == chunkIndex {
		if device := binary.LittleEndian.Uint16(entry[2:]); device != 0 {
			return 0, fmt.Errorf("inode %d of EROFS image is on device %d: %w", n, device, errors.ErrUnsupported)
		}
		entry = entry[4:]
	}
	address := binary.LittleEndian.Uint32(entry)
	in := off & (1<<shift - 1)
	length := min(1<<shift-in, r.size-off, int64(len(p)))
	if address == nullAddr {
		clear(p[:length])
		return int(length), nil
	}
	at := int64(address)<<blockBits + in
	if at < 0 || at > int64(len(im.b))-length {
		return 0, corrupt("data of inode %d lies outside", n)
	}
	return copy(p[:length], im.b[at:at+length]), nil
}
