// Package crashtest holds the tests that treat layerfs badly: it is killed at every step
// of every command, the power is cut at any moment under it, the disk is full, handles
// run out, files are damaged, and many processes are at one store. They know layerfs by
// its command line alone and need root.
//
//   - TestKill kills a command before its first, second, third… system call that
//     changes something, by ptrace: between two such calls there is nothing that a later
//     command could tell apart.
//   - TestPowerCut runs commands on a file system on a block device that records every
//     write and every flush, and looks at what the disk would have held had the power
//     gone at any moment: all that was written before the last flush, and any part of
//     what came after.
//   - TestContainers starts, stops and removes containers by the batch while monitors and
//     commands are killed at random, and looks for what is left after a collection.
//
// In `go test` they take a sample of the cases; `make crash`, `make stress` and `make
// containers` run all of them, with the flag -long.
package crashtest
