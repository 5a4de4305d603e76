// Package network connects containers without a daemon: it makes the network namespace
// of a container, joins it to bridges, gives it addresses and names, and publishes its
// ports on the host. What it set up goes with the namespace, or by [Networks.Detach],
// or after a crash by [Networks.Sweep].
//
// # What there is on the host
//
//   - A bridge for each network that is in use; "layerfs0" is the default network's.
//   - One nftables table, "layerfs" of family inet, shared by all stores. No other table
//     is read or written. Its rules never change: networks are elements of sets, and a
//     published port is one element of a map, so that an attach costs one message.
//   - A pair of virtual interfaces for each member, of which the container's is eth0,
//     eth1 and so on. The kernel removes it with the container's namespace.
//   - net.ipv4.ip_forward, and its like for IPv6, are switched on with the first bridge.
//
// # What there is on disk
//
// The file system is the database; everything is below the directory given to [Open]:
//
//	lock                         shared for attach and detach, exclusive for sweeps
//	setup                        held while bridges and rules are made
//	networks/NAME/network.json   the network; durable
//	networks/NAME/next           where the search for a free address begins
//	networks/NAME/leases/ADDR    one file per address in use, holding a container's id
//	networks/NAME/names/HOST/ID  who has a name, with the addresses, one a line
//	street, uplink.json          the namespace of a user without privileges, and what
//	                             connects it
//	containers/ID/record.json    what a container was given
//	containers/ID/hosts          its /etc/hosts
//	containers/ID/resolv.conf    its /etc/resolv.conf
//
// An address is taken by creating its file exclusively, so that processes need no common
// lock for it. Records of containers are not flushed to disk, because what they speak of
// does not survive a restart of the machine either; one that is damaged is swept.
//
// # Without privileges
//
// A user who may not change the host's network has all of this in a namespace of their
// own, the street, for which they need a user and a mount namespace. Containers reach
// each other there by address and name as those of root do. pasta or slirp4netns, if one
// is installed, carries what leaves the street, as connections of that user; without
// them there is a warning and no way out. Published ports are brought in by
// [Attachment.Serve]. The street ends with the last container in it.
//
// # Published ports
//
// For root, a port is published by address translation in the kernel, with no process in between,
// also for connections from the host to 127.0.0.1. For those the bridge has
// route_localnet set, which alone would let containers reach services that listen on the
// host's 127.0.0.1: a rule at the very front drops what comes from a bridge with such an
// address. The host's port is held by a bound socket as long as the [Attachment] is
// open, so that no other program takes it unawares.
//
// # Names
//
// Members of a network other than the default one find each other by name, through a
// small responder at 127.0.0.11 as Docker has it ([Attachment.Serve]), which reads the
// directory of names at each question. The process that keeps the attachment open runs
// it.
//
// # Lock order
//
// lock, then setup. Both are flock(2) locks and end with the process that holds them.
package network
