/*
 * Lets user-mode Linux 6.1 run on processors with AMX.
 *
 * User-mode Linux saves and restores the vector registers of its processes by
 * PTRACE_GETREGSET and PTRACE_SETREGSET with a buffer of a size that was fixed when the
 * largest state was AVX-512's. The host's kernel fills as much of the buffer as there is,
 * but takes a state back only whole (xstateregs_set in arch/x86/kernel/fpu/regset.c:
 * EFAULT otherwise), and each process of the guest dies with its first switch.
 *
 * Preloaded, this completes what is set with what the process has beyond the buffer. On
 * other processors the buffer is large enough and nothing changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* Intel's Software Developer's Manual, volume 1, 13.4.2: the first quadword of the header
 * has a bit for each component that is not in its initial state. */
static const size_t header = 512;

/* The largest state so far, with AMX, is about 11 KiB. */
enum { largest = 64 << 10 };

typedef long (*ptrace_call)(enum __ptrace_request, ...);

/* The components that lie wholly within a buffer of n bytes, as bits: XSAVE's layout
 * without compaction is the same on all processors, and the ones that are too large for
 * the buffer of user-mode Linux are AMX's, TILECFG and TILEDATA. */
static uint64_t within(size_t n)
{
	const uint64_t amx = 1ull << 17 | 1ull << 18;
	const size_t tiles = 2752; /* where TILECFG begins */
	return n <= tiles ? ~amx : ~0ull;
}

static long set(ptrace_call next, pid_t pid, struct iovec *given)
{
	static unsigned char whole[largest] __attribute__((aligned(64)));
	struct iovec v = {.iov_base = whole, .iov_len = sizeof whole};
	long r = next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &v);
	if (r < 0)
		return r;
	if (v.iov_len <= given->iov_len || given->iov_len < header + sizeof(uint64_t))
		return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, given);
	uint64_t has, wants, from = within(given->iov_len);
	memcpy(&has, whole + header, sizeof has);
	memcpy(whole, given->iov_base, given->iov_len);
	memcpy(&wants, whole + header, sizeof wants);
	wants = (wants & from) | (has & ~from);
	memcpy(whole + header, &wants, sizeof wants);
	return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &v);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_call next;
	va_list args;
	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *), *data = va_arg(args, void *);
	va_end(args);
	if (!next && !(next = (ptrace_call)dlsym(RTLD_NEXT, "ptrace"))) {
		errno = ENOSYS;
		return -1;
	}
	if (request == PTRACE_SETREGSET && (uintptr_t)addr == NT_X86_XSTATE)
		return set(next, pid, data);
	return next(request, pid, addr, data);
}
