// Package external has another OCI runtime, such as crun or runc, run a container that
// the rest of this program looks after: by its commands create, start, exec, kill and
// delete, on a bundle.
//
// # The root
//
// The root is a mount that is attached nowhere, and a runtime wants a path. So each of
// its commands is started by a thread with a mount namespace of its own, in which the
// root is attached in the bundle. Nothing of it can be seen elsewhere, and it goes with
// the thread, however this process ends. What is mounted on this machine arrives there;
// what is mounted in a container does not leave it, so bind mounts with the propagation
// shared are refused.
//
// Where control groups of version 1 and 2 are mounted side by side, crun refuses to work;
// in that namespace the tree of version 2 is covered.
//
// # Whose child the container is
//
// A runtime leaves the container's process to the process that adopts orphans, which this
// one makes itself (PR_SET_CHILD_SUBREAPER), so it can wait for it. Unlike with the
// launcher of package runtime, the kernel does not kill the container when this process
// is killed.
package external
