/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <xen/compiler.h>

enum { BUGFRAME_run_fn, BUGFRAME_warn, BUGFRAME_bug, BUGFRAME_assert };

/*
 * Xen 4.17's record for x86: each 32-bit word carries a signed displacement in
 * its low 24 bits and seven bits of the line number above it, added as plain
 * integers. A negative displacement therefore borrows one from the line bits.
 */
struct bug_frame {
    int32_t loc_disp:24; uint32_t line_hi:7;
    int32_t ptr_disp:24; uint32_t line_lo:7;
};

#define BUG_FRAME(type, line, ptr, more, msg)                              \
    asm volatile ( "990: ud2\n\t"                                          \
                   ".pushsection .bug_frames.%c0, \"a\", @progbits\n\t"    \
                   ".p2align 2\n"                                          \
                   "991: .long 990b - 991b + %c1, %c3 - 991b + %c2\n\t"    \
                   more ".popsection"                                      \
                   :: "i" (type), "i" (((line) >> 7) << 24),               \
                      "i" (((line) & 127) << 24), "i" (ptr), "i" (msg) )

#define WARN() BUG_FRAME(BUGFRAME_warn, __LINE__, __FILE__, "", 0)
#define BUG() do {                                                         \
        BUG_FRAME(BUGFRAME_bug, __LINE__, __FILE__, "", 0);                \
        __builtin_unreachable();                                           \
    } while ( 0 )
#define assert_failed(msg) do {                                            \
        BUG_FRAME(BUGFRAME_assert, __LINE__, __FILE__,                     \
                  ".long 0, %c4 - 991b\n\t", msg);                         \
        __builtin_unreachable();                                           \
    } while ( 0 )
#define ASSERT(p) do { if ( unlikely(!(p)) ) assert_failed(#p); } while ( 0 )
#define BUG_ON(p) do { if ( unlikely(p) ) BUG(); } while ( 0 )
#define WARN_ON(p) do { if ( unlikely(p) ) WARN(); } while ( 0 )

/* Call fn from the trap handler, with the registers of this place. */
#define run_in_exception_handler(fn) \
    BUG_FRAME(BUGFRAME_run_fn, 0, fn, "", 0)
