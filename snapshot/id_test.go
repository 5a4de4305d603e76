package snapshot_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/snapshot"
)

func TestParseDiffID(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	if d, err := snapshot.ParseDiffID("sha256:" + hex); err != nil || d.String() != "sha256:"+hex {
		t.Errorf("parse diff id: %q, %v", d, err)
	}
	for _, s := range []string{
		"", "sha256", "sha256:", hex, "sha256:" + hex[1:], "sha256:" + hex + "0", "SHA256:" + hex,
		"sha256:" + strings.ToUpper(hex), "sha256:" + hex[:63] + "g", "sha256:" + hex[:63] + "\n",
		"sha256:../" + hex[3:], "sha512:" + hex + hex, "md5:" + hex[:32],
	} {
		if d, err := snapshot.ParseDiffID(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("parse diff id %q: %q, %v, want an error of class ErrInvalid", s, d, err)
		}
	}
}
