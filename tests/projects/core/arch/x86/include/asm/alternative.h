/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <xen/compiler.h>

/* Xen 4.17's numbers: word * 32 + bit. */
#define X86_FEATURE_ALWAYS (2 * 32 + 29)
#define X86_FEATURE_XEN_SMAP (19 * 32 + 11)
#define NCAPINTS 21

/* The record of Xen 4.11 and later: 14 bytes. */
struct alt_instr {
    int32_t orig_offset, repl_offset;
    uint16_t cpuid;
    uint8_t orig_len, repl_len, pad_len, priv;
} __packed;

void apply_alternatives(struct alt_instr *start, struct alt_instr *end);
long cpu_settle(ulong_t weight);

/* What the replacement is longer by follows the old code as NOPs. */
#define ALTERNATIVE(oldinsn, newinsn, feature)                                \
    asm volatile ( "880:\t" oldinsn "\n"                                      \
                   "881:\t.skip -((884f-883f)-(881b-880b) > 0) * "            \
                   "((884f-883f)-(881b-880b)), 0x90\n"                        \
                   "882:\t.pushsection .altinstructions, \"a\", @progbits\n\t"\
                   ".long 880b - .\n\t.long 883f - .\n\t.word %c0\n\t"        \
                   ".byte 881b - 880b, 884f - 883f, 882b - 881b, 0\n\t"       \
                   ".section .altinstr_replacement, \"ax\", @progbits\n"      \
                   "883:\t" newinsn "\n"                                      \
                   "884:\t.popsection" :: "i" (feature) : "memory" )
