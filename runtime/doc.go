// Package runtime starts a process on a mounted root as the OCI runtime specification
// describes it: in namespaces of its own, with the root as its only file system, few
// capabilities and nothing of the host within reach. It knows a root and a
// specification, and nothing of layers or images.
//
// # How a container starts
//
// There is one process and no helper program. The parent checks the specification,
// opens what is needed of the host, makes missing mount points in the root, and writes
// everything that remains to be done into a table of system calls. A child made by
// clone3 inside the new namespaces runs the table from top to bottom and ends with
// execve. What fails is reported as the number of the row and the errno on a pipe that
// closes by itself when execve succeeds; the parent turns the pair into an [*Error] that
// names the step and the path. The child is a fork of a multithreaded program in which
// only one thread lives on, so it may neither allocate, lock nor grow its stack; that
// is why it runs a table and no ordinary code.
//
// # What is defended
//
// The root is untrusted, and so are the names in an image's configuration:
//   - everything in the root is reached by openat2 with RESOLVE_IN_ROOT and
//     RESOLVE_NO_MAGICLINKS and mounted on by handle, so that no symbolic link leads to
//     the host, whatever changes between a check and a use; proc and sysfs are only
//     mounted where no symbolic link is part of the path;
//   - the working directory is opened in the same way, and descriptors of the host are
//     closed before the program is looked up, so that neither a working directory nor
//     a program of the form /proc/self/fd/N leads out, and a program that is a magic
//     link (/proc/self/exe would be the launcher itself) is refused; for scripts whose
//     interpreter is one, the launcher is executed from a read-only mount ([Seal]);
//   - files that are masked are covered by a null device whose number was checked;
//   - user and group files are read only if they are regular and of bounded size, and a
//     numeric user is never looked up by name;
//   - system calls are filtered by the standard profile of containers, or another
//     ([FilterCalls]);
//   - inheritable and ambient capabilities are empty unless asked for, supplementary
//     groups are exactly those of the specification, and the session keyring is new.
//
// # Joining a container
//
// [Exec] starts one more process in the namespaces of a running container, by the same
// means: the child is made in the container's pid namespace and joins the others by the
// handle of a process. It hides from the container's processes until its program runs.
//
// # User namespaces
//
// In a new user namespace the child waits until the caller has written the mapping of
// ids, by itself or by newuidmap(1), and goes on as the root of it. Namespaces that are
// there already are beyond its power: the thread that makes the child joins them for
// that moment. Devices are the host's, bound. The root's files must belong to mapped
// ids; bind mounts can be shifted by the option idmap.
//
// # What is not here
//
// To join a mount or user namespace, limits of Intel RDT, network devices to be moved and
// listeners for seccomp notifications are refused with [errors.ErrUnsupported], and so are
// security labels on kernels without their module; nothing in a specification is ignored
// silently. Without a user namespace the caller needs root. A terminal that is passed as
// a stream is used as it is; the process leads a session of its own, to which that
// terminal does not belong, so that keys that make signals reach the caller, which
// forwards them by Config.Signals. With process.terminal a new one is made in the
// container, and its master end is [Process.Console].
package runtime
