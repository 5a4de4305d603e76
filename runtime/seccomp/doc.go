// Package seccomp compiles the system call filters of containers to programs of the
// kernel's filter machine (seccomp(2)).
//
// A profile is a list of rules by name, with conditions on arguments, and an action for
// everything else. What it means is:
//
//   - a call from an architecture that the profile does not list, the native one aside,
//     ends the process;
//   - of the rules for a call the first without conditions decides; where there is none,
//     the first one whose conditions hold;
//   - the conditions of a rule must all hold, but where a rule has several for one argument,
//     it stands for as many rules of one condition each, as in runc;
//   - where the action for everything else is an error, a call with a number above all
//     that the profile names fails with ENOSYS, as on a kernel that is older than it;
//   - names that an architecture does not have are passed over there;
//   - on architectures where calls are kinds of socketcall and ipc, a rule without
//     conditions is for that kind, too.
//
// The program looks at the architecture, then finds the number of the call in a balanced
// tree of ranges, each with one answer or with a comparison of arguments: about ten
// instructions are run for a call, or none, since kernels from 5.11 on remember which
// numbers are always allowed. Tests interpret program and profile over all numbers of all
// architectures and find them equal.
package seccomp
