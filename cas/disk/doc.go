// Package disk is the content-addressed store on a local file system, and the root
// directory that the rest of the engine keeps its records in. The file system is the
// database: every record is a small file replaced by rename.
//
//	<root>/                0700
//	  format.json          version and feature flags; written last when a store is made
//	  lock                 the store lock: flock, shared to publish, exclusive to sweep
//	  usage.json           kept sums, one 512-byte record written in place (see usage.go)
//	  oci-layout           with index.json and blobs/, the root is an OCI image layout
//	  index.json
//	  blobs/<alg>/<hex>    0444
//	  objects/ab/cdef…     0444, in 256 directories of mode 0755
//	  layers/ stacks/ refs/ snapshots/ containers/    records
//	  ingest/<id>/         what one batch is writing now; "owner" is flock'ed by it
//	  quarantine/          what a sweep took out, under its escaped path
//	  locks/names          byte ranges of this empty file are the named locks
//	  locks/gate           flock: lets a waiting sweep go before new publishers
//
// # Durability
//
// An [Ingest] creates everything new below ingest/<id>/, small objects in directories
// of a thousand in the order in which they came, because the blocks of a file lie near
// the directory in which it was created. [Ingest.Publish] flushes all of it in one
// batch, renames contents into place, flushes the directories that received them,
// renames the records, and flushes theirs. A record is therefore never visible before
// what it names is durable.
//
// # Locks
//
// All locks are held by open files, so a process that dies has released them. Every
// wait ends with its context. A lock is taken only while holding locks above it:
//
//	named locks (Store.Lock), several in ascending order of their names
//	└─ the writing of one blob (taken by Batch.Create, until Publish or Close); one batch
//	   waits only for digests above all it holds, and else goes on without
//	   └─ the store lock (Store.Share, Store.Exclusive, Store.Sweep, Ingest.Publish)
//	      └─ the ingest directory (to begin or clean an ingest, to write a record)
//	         └─ usage.json
//
// Within a process, Ingest.gate comes before Ingest.mu, and both before the store lock.
//
// # Garbage
//
// A collector finds the roots and moves the rest away in [Store.Sweep]. What makes
// this safe against processes that add at the same time:
//
//   - A batch that found an object present, and so did not store it, checks again in
//     Publish, under the shared store lock, and brings it back from quarantine.
//   - Records that a live ingest published or keeps ([Ingest.Keep]) are roots; list
//     them with [Store.Ingests] before reading the names that make things reachable, and
//     write those names before closing the ingest.
//   - [Store.Epoch] changes with every publication and record. A collector that read it
//     before marking compares it inside Sweep, and marks what is new when it changed.
//   - Who makes reachable what no live ingest keeps holds [Store.Share] from looking at
//     it to having written the name.
package disk
