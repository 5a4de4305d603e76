// Package compress reads and writes the compressed forms in which layer tars travel.
//
// [NewReader] finds out which format a stream has and decompresses it under limits:
// the input is untrusted. Decompression runs ahead of the consumer in its own
// goroutine. [NewWriter] compresses on all processors, and the same input gives the
// same bytes whatever their number and whatever the sizes of the writes, so that a
// layer has one compressed digest. [Identify] tells whether an existing blob is one
// that NewWriter can make again, so that it need not be kept.
package compress
