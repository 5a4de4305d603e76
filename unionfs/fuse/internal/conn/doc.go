// Package conn connects a FUSE file system of this program with the kernel: it mounts,
// starts the process that serves the mount, and ends both.
//
// There are two ways to mount. [Open] makes a detached mount with the mount calls of
// Linux 5.2, for root, also for the root of a user and mount name space of its own.
// [Fusermount] asks the setuid program fusermount3, which mounts for any user, but
// straight onto a directory.
//
// Either gives a device: the open /dev/fuse that the file system is served on. The
// connection ends, and all users of the mount get ENOTCONN instead of waiting, when the
// last process that has the device open ends. So only the server may keep it: who mounts
// closes its own as soon as [Spawn] has passed it on.
package conn
