// Package monitor runs a container from its first start to its last end: it is the
// parent of its process, keeps its terminal or its pipes, writes its log, serves those
// who attach to it, checks its health, writes down how it ended and starts it again when
// its restart policy says so.
//
// It runs in a process of its own, which survives the command that made it, or inside
// the command when the container is in its foreground. Whoever else wants something of
// the container reads its state, signals its process, or talks to the monitor by a
// socket.
//
// # The protocol
//
// The socket is of packets (SOCK_SEQPACKET), each a letter and what belongs to it. The
// client begins with a [Hello]. Then it sends input, ends of input and sizes of its
// terminal, and is sent output; at the start of the container it is told that it runs,
// or why not, and at its end the exit code. To detach is to close. The socket is
// reachable for the owner of the store alone (its directory has mode 0700, it has mode
// 0600), and the credentials of the peer are looked at besides.
//
// A client that does not read holds up the container's output, as a terminal would.
package monitor
