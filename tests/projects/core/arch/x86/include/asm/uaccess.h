/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <asm/alternative.h>

/* Assembler: returns how many bytes were not copied. */
size_t copy_guest(void *dst, const void *src, size_t n);

#define stac() ALTERNATIVE("", "stac", X86_FEATURE_XEN_SMAP)
#define clac() ALTERNATIVE("", "clac", X86_FEATURE_XEN_SMAP)

/* Read one word that may not be there: 0 or -EFAULT, and then *val is 0. */
static inline int get_guest_u32(uint32_t *val, const uint32_t *ptr)
{
    int rc = 0;

    asm volatile ( "1:\tmovl %2, %1\n"
                   "2:\t.pushsection .fixup, \"ax\", @progbits\n"
                   "3:\tmovl %3, %0\n\txorl %1, %1\n\tjmp 2b\n\t"
                   ".section .ex_table, \"a\", @progbits\n\t"
                   ".p2align 2\n\t.long 1b - ., 3b - .\n\t.popsection"
                   : "+r" (rc), "=&r" (*val)
                   : "m" (*ptr), "i" (-EFAULT) );
    return rc;
}
