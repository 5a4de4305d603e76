#include "textflag.h"

// The rounds of SHA-256 (FIPS 180-4, 6.2.2) by Intel's SHA extensions, on one message
// block for one state or two. X1 and X9 hold the words A, B, E, F of the states, X2 and X10 the
// words C, D, G, H, as SHA256RNDS2 wants them; X3 to X6 the last sixteen words of the
// message schedule, X8 the order of its bytes.

// ROUND does rounds 4n to 4n+3 of one state with the words of the schedule in m.
#define ROUND(n, m) \
	MOVOU       (16*n)(AX), X0 \
	PADDD       m, X0         \
	SHA256RNDS2 X0, X1, X2    \
	PSHUFD      $0x0e, X0, X0 \
	SHA256RNDS2 X0, X2, X1

// ROUNDS does them of both.
#define ROUNDS(n, m) \
	MOVOU       (16*n)(AX), X0 \
	PADDD       m, X0         \
	SHA256RNDS2 X0, X1, X2    \
	SHA256RNDS2 X0, X9, X10   \
	PSHUFD      $0x0e, X0, X0 \
	SHA256RNDS2 X0, X2, X1    \
	SHA256RNDS2 X0, X10, X9

// LOAD takes the words 4n to 4n+3 from the message.
#define LOAD(n, m) \
	MOVOU  (16*n)(SI), m \
	PSHUFB X8, m

// NEXT replaces the oldest words, in a, by the next ones; d has the newest.
#define NEXT(a, b, c, d) \
	SHA256MSG1 b, a     \
	MOVO       d, X7    \
	PALIGNR    $4, c, X7 \
	PADDD      X7, a    \
	SHA256MSG2 d, a

// SCHEDULE does all rounds of a block, four at a time with F.
#define SCHEDULE(F) \
	LOAD(0, X3) \
	F(0, X3) \
	LOAD(1, X4) \
	F(1, X4) \
	LOAD(2, X5) \
	F(2, X5) \
	LOAD(3, X6) \
	F(3, X6) \
	NEXT(X3, X4, X5, X6) \
	F(4, X3) \
	NEXT(X4, X5, X6, X3) \
	F(5, X4) \
	NEXT(X5, X6, X3, X4) \
	F(6, X5) \
	NEXT(X6, X3, X4, X5) \
	F(7, X6) \
	NEXT(X3, X4, X5, X6) \
	F(8, X3) \
	NEXT(X4, X5, X6, X3) \
	F(9, X4) \
	NEXT(X5, X6, X3, X4) \
	F(10, X5) \
	NEXT(X6, X3, X4, X5) \
	F(11, X6) \
	NEXT(X3, X4, X5, X6) \
	F(12, X3) \
	NEXT(X4, X5, X6, X3) \
	F(13, X4) \
	NEXT(X5, X6, X3, X4) \
	F(14, X5) \
	NEXT(X6, X3, X4, X5) \
	F(15, X6)

// SPREAD brings a state from the order of its words in memory into that of the rounds.
#define SPREAD(abcd, efgh) \
	PSHUFD  $0xb1, abcd, abcd \
	PSHUFD  $0x1b, efgh, efgh \
	MOVO    abcd, X7          \
	PALIGNR $8, efgh, abcd    \
	PBLENDW $0xf0, X7, efgh

// GATHER is the inverse of SPREAD.
#define GATHER(abef, cdgh) \
	PSHUFD  $0x1b, abef, abef \
	PSHUFD  $0xb1, cdgh, cdgh \
	MOVO    abef, X7          \
	PBLENDW $0xf0, cdgh, abef \
	PALIGNR $8, X7, cdgh

DATA order<>+0(SB)/8, $0x0405060700010203
DATA order<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL order<>(SB), RODATA|NOPTR, $16

// func block(a *[8]uint32, p []byte)
TEXT ·block(SB), NOSPLIT, $0-32
	MOVQ a+0(FP), DI
	MOVQ p_base+8(FP), SI
	MOVQ p_len+16(FP), DX
	SHRQ $6, DX
	JZ   done

	MOVOU order<>(SB), X8
	LEAQ  ·constants(SB), AX
	MOVOU (DI), X1
	MOVOU 16(DI), X2
	SPREAD(X1, X2)

loop:
	MOVO X1, X11
	MOVO X2, X12

	SCHEDULE(ROUND)

	PADDD X11, X1
	PADDD X12, X2
	ADDQ  $64, SI
	DECQ  DX
	JNZ   loop

	GATHER(X1, X2)
	MOVOU X1, (DI)
	MOVOU X2, 16(DI)

done:
	RET

// func blocks(a, b *[8]uint32, p []byte)
TEXT ·blocks(SB), NOSPLIT, $0-40
	MOVQ a+0(FP), DI
	MOVQ b+8(FP), R8
	MOVQ p_base+16(FP), SI
	MOVQ p_len+24(FP), DX
	SHRQ $6, DX
	JZ   done

	MOVOU order<>(SB), X8
	LEAQ  ·constants(SB), AX
	MOVOU (DI), X1
	MOVOU 16(DI), X2
	SPREAD(X1, X2)
	MOVOU (R8), X9
	MOVOU 16(R8), X10
	SPREAD(X9, X10)

loop:
	MOVO X1, X11
	MOVO X2, X12
	MOVO X9, X13
	MOVO X10, X14

	SCHEDULE(ROUNDS)

	PADDD X11, X1
	PADDD X12, X2
	PADDD X13, X9
	PADDD X14, X10
	ADDQ  $64, SI
	DECQ  DX
	JNZ   loop

	GATHER(X1, X2)
	MOVOU X1, (DI)
	MOVOU X2, 16(DI)
	GATHER(X9, X10)
	MOVOU X9, (R8)
	MOVOU X10, 16(R8)

done:
	RET

// func cpuid(leaf uint32) (eax, ebx, ecx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-20
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	RET
