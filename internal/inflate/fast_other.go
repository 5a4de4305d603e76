//go:build !(amd64 || arm64 || ppc64le)

package inflate

// fast leaves all to the careful loop where the order of bytes or the cost of unaligned
// loads is another.
func (z *Reader) fast() (ended bool, err error) { return false, nil }
