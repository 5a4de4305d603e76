package unionfstest

import (
	"bytes"
	"encoding/binary"
)

// parseDirents takes apart what getdents64 wrote: records of {u64 inode, i64 offset,
// u16 length, u8 type, name, NUL} (getdents(2)).
func parseDirents(buf []byte) []dirent {
	const header = 19
	var all []dirent
	for len(buf) >= header {
		length := int(binary.NativeEndian.Uint16(buf[16:]))
		if length < header || length > len(buf) {
			return all
		}
		name, _, _ := bytes.Cut(buf[header:length], []byte{0})
		all = append(all, dirent{
			name: string(name),
			ino:  binary.NativeEndian.Uint64(buf),
			off:  int64(binary.NativeEndian.Uint64(buf[8:])),
			kind: buf[18],
		})
		buf = buf[length:]
	}
	return all
}
