// Package container keeps what is known of containers: things with an id and a name
// that are created, run, end, may run again and are removed. It starts nothing itself
// (package monitor does) and knows nothing of layers: the snapshot that a container
// stands on is a word to it.
//
// # A container on disk
//
//	containers/
//	    names/<name>        a symbolic link whose target is the id: names are unique
//	    events.json         what happened to containers, a line of JSON each
//	    <id>/               64 hexadecimal digits
//	        container.json  what was asked for: a [Record]
//	        state.json      what became of it: a [State]
//	        config.json     the OCI specification that it was last started with
//	        mountpoints.json  what its starts made to mount on: a list of [MountPoint]
//	        log.json, …     what it wrote (package logs)
//	        attach          the socket of its monitor
//
// Each record is replaced by rename, so a reader needs no lock and sees the old or the
// new one. Writers hold the lock of the container. container.json is durable when
// Create returns, before the name leads to it; state.json is not flushed when it says
// that something runs, since nothing runs after a power cut, and is flushed when it
// says how a container ended.
//
// # Who knows whether it runs
//
// A container is run by one process, its monitor, which is the parent of the
// container's first process and writes how that ended. state.json names both by pid
// and start time ([Proc]), so that a pid that was given to somebody else is never taken
// for ours. A monitor that is killed takes the container with it (the kernel kills the
// first process, and with it all others). Then nobody wrote how it ended, and [Store]
// says so to whoever reads the state: the container has exited, with code
// [ExitLost]. Should its first process have got rid of the kernel's order and live on,
// the state is running and without monitor until [Store.Settle] kills it, which
// start, stop, remove and the collector call.
package container
