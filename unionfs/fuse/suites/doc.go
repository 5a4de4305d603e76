// Package suites holds the tests that put other people's programs on unions of the driver
// "fuse" and compare what these say with what they say on a plain directory, or on the
// kernel's overlayfs, of the same content.
//
//   - TestPjdfstest runs the checks of POSIX system calls of pjdfstest on the driver and on
//     kernel overlayfs. None may fail on the driver alone.
//   - TestUnionmount runs unionmount-testsuite, which knows what a union is.
//   - TestFsx lets fsx write to lower files and compare what it reads with what it wrote.
//   - TestFsstress lets fsstress do the same things to a union and to a plain directory, and
//     compares the two trees.
//   - TestChaos has processes work on a union whose server is stopped, slowed and killed,
//     and whose disk is full at times.
//
// In `go test` they take a sample of some seconds each; `make suites` runs all of them,
// with the flag -long. The programs are built by tools/suites.sh from pinned sources; a
// test whose program is not there is skipped. The last three run as an ordinary user
// too, who mounts through fusermount3.
package suites
