package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/layerfs/layerfs/internal/testenv"
)

func newRaw(r io.Reader) *Reader {
	z := &Reader{in: make([]byte, inputSize), win: make([]byte, windowSize), raw: true}
	z.Reset(r)
	return z
}

// contents returns inputs of many kinds by name.
func contents() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		words := strings.Fields("the quick brown fox jumps over a lazy dog and /usr/lib/x86_64-linux-gnu/libc.so.6 0000644 root ustar")
		var b []byte
		for len(b) < n {
			b = append(append(b, words[rng.IntN(len(words))]...), ' ')
		}
		return b[:n]
	}
	noise := func(n, alphabet int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.IntN(alphabet))
		}
		return b
	}
	// Matches of every short distance and every length.
	var distances []byte
	for d := 1; d <= 40; d++ {
		for n := 3; n <= maxMatch; n += 5 {
			seed := noise(d, 256)
			for range n {
				seed = append(seed, seed[len(seed)-d])
			}
			distances = append(distances, seed...)
		}
	}
	// Matches at the far end of the history.
	far := noise(history, 256)
	for range 20 {
		far = append(far, far[len(far)-history:][:300]...)
		far = append(far, noise(5, 256)...)
	}
	mixed := slices.Concat(text(300000), noise(100000, 256), make([]byte, 400000), noise(200000, 4), distances, text(100000))
	return map[string][]byte{
		"empty":     nil,
		"byte":      {'x'},
		"text":      text(500000),
		"noise":     noise(300000, 256),
		"bits":      noise(300000, 2),
		"nibbles":   noise(300000, 16),
		"zeros":     make([]byte, 1<<20),
		"distances": distances,
		"far":       far,
		"mixed":     mixed,
		"window":    mixed[:windowSize],
		"window+1":  mixed[:windowSize+1],
		"history":   mixed[:history],
	}
}

// class reduces an error to what both decoders must agree on.
func class(err error) string {
	var c *CorruptError
	var fc flate.CorruptInputError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "truncated"
	case errors.As(err, &c), errors.As(err, &fc), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return "corrupt"
	default:
		return err.Error()
	}
}

// sameRaw decodes a raw stream with both decoders and compares outputs and verdicts.
//
// They differ in one point: compress/flate asks for as many bits as the end of block
// has before it decodes any symbol, and so may miss the last few symbols of a stream
// that is cut short.
func sameRaw(t *testing.T, z *Reader, stream []byte, wrap func(io.Reader) io.Reader) {
	t.Helper()
	// What the stream unpacks to is bounded to keep hostile ones cheap.
	const most = windowSize + 64<<10
	want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), most))
	z.Reset(wrap(bytes.NewReader(stream)))
	got, gotErr := io.ReadAll(io.LimitReader(z, most))
	if class(wantErr) == "truncated" && gotErr != nil && len(got) > len(want) && len(got)-len(want) <= maxCode*maxMatch {
		got, gotErr = got[:len(want)], wantErr
	}
	if !bytes.Equal(got, want) {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		t.Fatalf("got %d bytes (%v), compress/flate %d (%v), the same up to %d", len(got), gotErr, len(want), wantErr, i)
	}
	if class(gotErr) != class(wantErr) {
		t.Fatalf("after %d bytes: got %v, compress/flate %v", len(got), gotErr, wantErr)
	}
}

func plain(r io.Reader) io.Reader { return r }

// wraps are ways in which a source may deliver.
func wraps() map[string]func(io.Reader) io.Reader {
	return map[string]func(io.Reader) io.Reader{
		"whole":   plain,
		"byte":    iotest.OneByteReader,
		"half":    iotest.HalfReader,
		"dataerr": iotest.DataErrReader,
		"uneven":  func(r io.Reader) io.Reader { return &unevenReader{r: r, rng: rand.New(rand.NewPCG(3, 4))} },
	}
}

// unevenReader returns pieces of 0 to 40 bytes.
type unevenReader struct {
	r   io.Reader
	rng *rand.Rand
}

func (u *unevenReader) Read(p []byte) (int, error) {
	return u.r.Read(p[:min(len(p), u.rng.IntN(40))])
}

func TestEncodersOfGo(t *testing.T) {
	testenv.Long(t)
	for name, data := range contents() {
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			var out bytes.Buffer
			w, err := gzip.NewWriterLevel(&out, level)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for how, wrap := range wraps() {
				if how == "byte" && level%3 != 0 {
					continue
				}
				got, err := io.ReadAll(NewReader(wrap(bytes.NewReader(out.Bytes()))))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s at level %d, read by %s: %d bytes of %d, error %v", name, level, how, len(got), len(data), err)
				}
			}
		}
	}
}

func TestProgramsThatCompress(t *testing.T) {
	testenv.Long(t)
	tried, inputs := 0, contents()
	for _, program := range [][]string{{"gzip", "-n"}, {"gzip", "-n", "--rsyncable"}, {"pigz"}, {"pigz", "-i"}, {"igzip", "-c"}} {
		path, err := exec.LookPath(program[0])
		if err != nil {
			continue
		}
		for level := 1; level <= 9; level++ {
			args := append(slices.Clone(program[1:]), fmt.Sprintf("-%d", level))
			if program[0] == "igzip" && level > 3 {
				continue
			}
			for name, data := range inputs {
				if level%4 != 1 && name != "mixed" {
					continue
				}
				cmd := exec.CommandContext(t.Context(), path, args...)
				cmd.Stdin = bytes.NewReader(data)
				blob, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %v", cmd.Args, err)
				}
				got, err := io.ReadAll(NewReader(bytes.NewReader(blob)))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%v of %s: %d bytes of %d, error %v", cmd.Args, name, len(got), len(data), err)
				}
				tried++
			}
		}
	}
	if tried == 0 {
		t.Skip("no program that writes gzip is installed")
	}
}

// TestHandMade has streams that no encoder makes.
func TestHandMade(t *testing.T) {
	lits := func(set map[int]uint8, n int) []uint8 {
		l := make([]uint8, n)
		for sym, length := range set {
			l[sym] = length
		}
		return l
	}
	w := func() *bitWriter { return &bitWriter{} }
	fixed := func() *bitWriter { return w().bits(3, 3) }
	two := lits(map[int]uint8{'a': 1, 256: 1}, 257)
	match := lits(map[int]uint8{'a': 1, 256: 2, 257: 2}, 258)
	streams := map[string]struct {
		w    *bitWriter
		want string // class
	}{
		"nothing":                   {w(), "truncated"},
		"type 3":                    {w().bits(7, 3), "corrupt"},
		"stored, empty":             {w().bits(1, 8).bits(0xffff0000, 32), "ok"},
		"stored, wrong complement":  {w().bits(1, 8).bits(0xfffe0000, 32), "corrupt"},
		"stored, short":             {w().bits(1, 8).bits(0xfffc0003, 32).bits('a', 8), "truncated"},
		"fixed, empty":              {fixed().fixedLit(256), "ok"},
		"fixed, literals":           {fixed().fixedLit('a').fixedLit(143).fixedLit(144).fixedLit(255).fixedLit(256), "ok"},
		"fixed, length 286":         {fixed().fixedLit('a').fixedLit(286).fixedLit(256).bits(0, 64), "corrupt"},
		"fixed, length 287":         {fixed().fixedLit('a').fixedLit(287).fixedLit(256).bits(0, 64), "corrupt"},
		"fixed, distance 30":        {fixed().fixedLit('a').fixedLit(257).code(30, 5).fixedLit(256).bits(0, 64), "corrupt"},
		"fixed, distance 31":        {fixed().fixedLit('a').fixedLit(257).code(31, 5).fixedLit(256).bits(0, 64), "corrupt"},
		"fixed, too far":            {fixed().fixedLit('a').fixedLit(257).code(1, 5).fixedLit(256).bits(0, 64), "corrupt"},
		"fixed, far enough":         {fixed().fixedLit('a').fixedLit(257).code(0, 5).fixedLit(256).bits(0, 64), "ok"},
		"fixed, 258 as 284":         {fixed().fixedLit('a').fixedLit(284).bits(31, 5).code(0, 5).fixedLit(256), "ok"},
		"fixed, no end":             {fixed().fixedLit('a').fixedLit('b'), "truncated"},
		"dynamic":                   {w().dynamic(true, two, []uint8{0}).code(0, 1).code(1, 1), "ok"},
		"dynamic, 287 literals":     {w().dynamic(true, lits(map[int]uint8{'a': 1, 256: 1}, 287), []uint8{0}).code(1, 1), "corrupt"},
		"dynamic, 31 distances":     {w().dynamic(true, two, make([]uint8, 31)).code(1, 1), "corrupt"},
		"dynamic, 30 distances":     {w().dynamic(true, two, make([]uint8, 30)).code(1, 1), "ok"},
		"dynamic, no literal code":  {w().dynamic(true, make([]uint8, 257), []uint8{0}).bits(0, 64), "corrupt"},
		"dynamic, only the end":     {w().dynamic(true, lits(map[int]uint8{256: 1}, 257), []uint8{0}).bits(0, 1), "ok"},
		"dynamic, only a literal":   {w().dynamic(true, lits(map[int]uint8{'a': 1}, 257), []uint8{0}).bits(0, 5).bits(1, 1), "corrupt"},
		"dynamic, one of two bits":  {w().dynamic(true, lits(map[int]uint8{256: 2}, 257), []uint8{0}).bits(0, 64), "corrupt"},
		"dynamic, incomplete":       {w().dynamic(true, lits(map[int]uint8{'a': 1, 256: 2}, 257), []uint8{0}).bits(0, 64), "corrupt"},
		"dynamic, too many":         {w().dynamic(true, lits(map[int]uint8{'a': 1, 'b': 1, 256: 2}, 257), []uint8{0}).bits(0, 64), "corrupt"},
		"dynamic, one distance":     {w().dynamic(true, match, []uint8{1}).code(0, 1).code(3, 2).code(0, 1).code(2, 2), "ok"},
		"dynamic, other distance":   {w().dynamic(true, match, []uint8{1}).code(0, 1).code(3, 2).code(1, 1).code(2, 2), "corrupt"},
		"dynamic, no distance":      {w().dynamic(true, match, []uint8{0}).code(0, 1).code(3, 2).code(0, 1).code(2, 2), "corrupt"},
		"dynamic, long distance":    {w().dynamic(true, match, []uint8{2}).bits(0, 64), "corrupt"},
		"repeat before the first":   {w().bits(5, 3).bits(0, 10).bits(0, 4).bits(1, 3).bits(0, 9).bits(0, 64), "corrupt"},
		"repeat beyond the end":     {w().bits(5, 3).bits(0, 10).bits(0, 4).bits(0, 6).bits(1, 3).bits(0, 3).bits(1<<56-1, 56), "corrupt"},
		"no code of lengths":        {w().bits(5, 3).bits(0, 10).bits(0, 4).bits(0, 64), "corrupt"},
		"incomplete code of length": {w().bits(5, 3).bits(0, 10).bits(0, 4).bits(2, 3).bits(0, 64), "corrupt"},
	}
	z := newRaw(nil)
	for name, s := range streams {
		t.Run(name, func(t *testing.T) {
			for _, wrap := range wraps() {
				sameRaw(t, z, s.w.b, wrap)
			}
			// With input to spare the fast loop has its turn.
			long := append(slices.Clone(s.w.b), make([]byte, 100)...)
			if s.want != "truncated" {
				sameRaw(t, z, long, plain)
			}
			z.Reset(bytes.NewReader(s.w.b))
			if _, err := io.Copy(io.Discard, z); class(err) != s.want {
				t.Errorf("got %v, want %s", err, s.want)
			}
		})
	}
}

// TestRandomCodes feeds random bits to random codes, in both loops.
func TestRandomCodes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	z := newRaw(nil)
	for i := range 3000 {
		var w bitWriter
		for blocks := 1 + rng.IntN(3); blocks > 0; blocks-- {
			nlits := 257 + rng.IntN(30)
			lits := randomLengths(rng, 2+rng.IntN(nlits-1), nlits)
			ndists := 1 + rng.IntN(30)
			w.dynamic(blocks == 1, lits, randomLengths(rng, rng.IntN(ndists+1), ndists))
			for n := rng.IntN(300); n > 0; n-- {
				// Mostly zeros begin the shortest codes, which come first.
				w.bits(rng.Uint64()&rng.Uint64(), 64)
			}
		}
		// History for the distances, in a stored block in front.
		stored := []byte{0, 0, 0x80, 0xff, 0x7f}
		for range 0x8000 {
			stored = append(stored, byte(rng.IntN(256)))
		}
		if i%2 == 0 {
			sameRaw(t, z, append(stored, w.b...), plain)
		} else {
			sameRaw(t, z, w.b, plain)
		}
	}
}

// TestDamaged compares the decoders on streams with flipped bits and cut ends.
func TestDamaged(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	z := newRaw(nil)
	for name, data := range contents() {
		data = data[:min(len(data), 60000)]
		for _, level := range []int{0, 1, 6, 9, flate.HuffmanOnly} {
			var out bytes.Buffer
			w, err := flate.NewWriter(&out, level)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for range 60 {
				stream := slices.Clone(out.Bytes())
				if rng.IntN(3) == 0 {
					stream = stream[:rng.IntN(len(stream))]
				}
				for n := rng.IntN(3); n > 0 && len(stream) > 0; n-- {
					stream[rng.IntN(len(stream))] ^= 1 << rng.IntN(8)
				}
				if t.Run("", func(t *testing.T) { sameRaw(t, z, stream, plain) }); t.Failed() {
					t.Fatalf("%s at level %d", name, level)
				}
			}
		}
	}
}

func gzipped(tb testing.TB, data []byte, set func(*gzip.Writer)) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if set != nil {
		set(w)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestEveryTruncationIsUnexpectedEOF(t *testing.T) {
	blob := gzipped(t, contents()["text"][:3000], func(w *gzip.Writer) { w.Name, w.Comment, w.Extra = "n", "c", []byte("xy") })
	for n := range blob {
		_, err := io.Copy(io.Discard, NewReader(bytes.NewReader(blob[:n])))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %v", n, len(blob), err)
		}
	}
}

func TestEveryFlippedBitThatMattersIsFound(t *testing.T) {
	data := contents()["mixed"][295000:302000]
	blob := gzipped(t, data, nil)
	z := NewReader(nil)
	step := 1
	if testing.Short() {
		step = 37
	}
	for bit := 0; bit < len(blob)*8; bit += step {
		if bit >= 4*8 && bit < 10*8 {
			continue // time, hint about the level and operating system mean nothing here
		}
		if bit == 3*8 {
			continue // the text flag means nothing
		}
		blob[bit/8] ^= 1 << (bit % 8)
		z.Reset(bytes.NewReader(blob))
		// A flipped bit may do nothing: in a run, another distance gives the same bytes.
		if got, err := io.ReadAll(z); err == nil && !bytes.Equal(got, data) {
			t.Errorf("bit %d of byte %d of %d flipped: other contents and no error", bit%8, bit/8, len(blob))
		}
		blob[bit/8] ^= 1 << (bit % 8)
	}
}

func TestHeaders(t *testing.T) {
	data := []byte("some contents")
	ok := gzipped(t, data, nil)
	long := func(n int) []byte {
		b := slices.Concat([]byte{0x1f, 0x8b, 8, flagName, 0, 0, 0, 0, 0, 255}, bytes.Repeat([]byte("n"), n), []byte{0})
		return append(b, ok[10:]...)
	}
	withSum := slices.Concat([]byte{0x1f, 0x8b, 8, flagHeaderSum, 0, 0, 0, 0, 0, 255, 0, 0}, ok[10:])
	for _, c := range []struct {
		name string
		blob []byte
		want string
	}{
		{"all fields", gzipped(t, data, func(w *gzip.Writer) {
			w.Name, w.Comment, w.Extra = "name", "comment", bytes.Repeat([]byte{1}, 65535)
		}), "ok"},
		{"longest name", long(maxHeaderString - 1), "ok"},
		{"name too long", long(maxHeaderString), "corrupt"},
		{"wrong sum of header", withSum, "corrupt"},
		{"reserved flag", slices.Concat([]byte{0x1f, 0x8b, 8, 0x20}, ok[4:]), "corrupt"},
		{"other method", slices.Concat([]byte{0x1f, 0x8b, 7}, ok[3:]), "corrupt"},
		{"not gzip", []byte("not gzip at all"), "corrupt"},
		{"empty", nil, "truncated"},
		{"two members", slices.Concat(ok, ok), "ok"},
		{"zeros behind", append(slices.Clone(ok), make([]byte, 512)...), "corrupt"},
		{"text behind", append(slices.Clone(ok), "garbage"...), "corrupt"},
		{"half a member behind", slices.Concat(ok, ok[:9]), "truncated"},
		{"wrong size", append(slices.Clone(ok[:len(ok)-1]), 1), "corrupt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, wrap := range wraps() {
				got, err := io.ReadAll(NewReader(wrap(bytes.NewReader(c.blob))))
				if class(err) != c.want {
					t.Errorf("read by %s: got %v, want %s", how, err, c.want)
				}
				if c.want == "ok" && len(got)%len(data) != 0 {
					t.Errorf("read by %s: got %q", how, got)
				}
				if err != nil && c.want == "corrupt" && !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("%v is not fs.ErrInvalid", err)
				}
			}
		})
	}
}

func TestHeaderSumAccepted(t *testing.T) {
	// A header with name and checksum, as the standard library verifies it too.
	head := []byte{0x1f, 0x8b, 8, flagHeaderSum | flagName, 1, 2, 3, 4, 0, 3, 'n', 0}
	h := &headerReader{z: newRaw(bytes.NewReader(head))}
	h.skip(len(head))
	blob := slices.Concat(head, []byte{byte(h.sum), byte(h.sum >> 8)}, gzipped(t, []byte("x"), nil)[10:])
	if _, err := gzip.NewReader(bytes.NewReader(blob)); err != nil {
		t.Fatal("compress/gzip refuses the header:", err)
	}
	if got, err := io.ReadAll(NewReader(bytes.NewReader(blob))); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestMemberHistory checks that a member cannot refer to the one before it.
func TestMemberHistory(t *testing.T) {
	first := gzipped(t, bytes.Repeat([]byte("abc"), 100000), nil)
	w := (&bitWriter{}).bits(3, 3).fixedLit(257).code(0, 5).fixedLit(256)
	second := slices.Concat([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, w.b, make([]byte, 100))
	got, err := io.ReadAll(NewReader(bytes.NewReader(slices.Concat(first, second))))
	if class(err) != "corrupt" || len(got) != 300000 {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

func TestErrorOfSource(t *testing.T) {
	blob := gzipped(t, contents()["mixed"], nil)
	boom := errors.New("boom")
	for _, n := range []int{0, 3, 100, len(blob) / 2, len(blob) - 4, len(blob)} {
		_, err := io.Copy(io.Discard, NewReader(io.MultiReader(bytes.NewReader(blob[:n]), iotest.ErrReader(boom))))
		if !errors.Is(err, boom) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	_, err := io.Copy(io.Discard, NewReader(stuckReader{}))
	if !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("source that returns nothing: %v", err)
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

// TestFlushedOutputComesBeforeBlocking checks that what can be decoded is handed over
// before the source is asked for more.
func TestFlushedOutputComesBeforeBlocking(t *testing.T) {
	pr, pw := io.Pipe()
	z := NewReader(pr)
	go func() {
		w := gzip.NewWriter(pw)
		_, err := w.Write([]byte("first"))
		pw.CloseWithError(errors.Join(err, w.Flush()))
	}()
	got := make([]byte, 5)
	if _, err := io.ReadFull(z, got); err != nil || string(got) != "first" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResetAfterDamage(t *testing.T) {
	data := contents()["text"]
	blob := gzipped(t, data, nil)
	z := NewReader(bytes.NewReader(blob[:len(blob)/2]))
	if _, err := io.Copy(io.Discard, z); err == nil {
		t.Fatal("no error from half a stream")
	}
	for range 2 {
		z.Reset(bytes.NewReader(blob))
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("after Reset: %d bytes, %v", len(got), err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	blob := gzipped(t, contents()["mixed"], nil)
	z := NewReader(nil)
	var r bytes.Reader
	if n := testing.AllocsPerRun(3, func() {
		r.Reset(blob)
		z.Reset(&r)
		if _, err := z.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a stream", n)
	}
}

// TestTableBounds checks the sizes of the second levels against the worst codes.
func TestTableBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	var tb tables
	for range 20000 {
		if !tb.setLits(randomLengths(rng, 2+rng.IntN(maxLits-1), maxLits)) {
			t.Fatal("complete code of literals refused")
		}
		if !tb.setDists(randomLengths(rng, 2+rng.IntN(maxDists-1), maxDists)) {
			t.Fatal("complete code of distances refused")
		}
	}
}
