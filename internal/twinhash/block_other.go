//go:build !amd64

package twinhash

// fast is false: the standard library is what there is.
func fast() bool { return false }

func block(_ *[8]uint32, _ []byte) { panic("twinhash: no code for this processor") }

func blocks(_, _ *[8]uint32, _ []byte) { panic("twinhash: no code for this processor") }
