// Package oci keeps containers between the calls of a command line that the OCI runtime
// specification describes (runtime.md): create, start, state, kill and delete, each a
// process of its own. What is known of a container is a directory:
//
//	<root>/<id>/config.json   the bundle's configuration as it was when it was created
//	<root>/<id>/state.json    process, cgroup, and the steps that are left to start it
//	<root>/<id>/gate          the socket at which it waits for start; gone once it is started
//
// A container that is created stands at its gate: all is done but the execution of its
// program. The process is told from a later one of the same id by its start time.
package oci
