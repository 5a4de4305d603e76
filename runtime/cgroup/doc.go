// Package cgroup limits, counts, freezes and kills the processes of a container by
// control groups, on machines with the hierarchies of version 1, with the one of
// version 2, or with both.
//
// A [Group] is one name in all hierarchies that there are. What a machine has is found
// by looking at what is mounted (cgroups(7), Documentation/admin-guide/cgroup-v1 and
// cgroup-v2.rst); each limit goes to the hierarchy that has its controller. A limit that
// has none, or that the kernel refuses, is an error of its own from [Group.Apply]: none
// is dropped silently.
//
// An ordinary user can use it as far as a part of a hierarchy was delegated: handed over
// by owner, as systemd does for its users. A relative path lies below the topmost group
// above the caller's own that the caller may change.
package cgroup
