/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/alternative.h>
#include <xen/lib.h>

static uint32_t __read_mostly boot_cpu_caps[NCAPINTS] = { [2] = 1U << 29 };

/* The fence is an alternative; the answer does not depend on which one runs. */
long cpu_settle(ulong_t weight)
{
    ALTERNATIVE("mfence", "lfence", X86_FEATURE_ALWAYS);
    return weight * 3;
}

void apply_alternatives(struct alt_instr *start, struct alt_instr *end)
{
    struct alt_instr *a;

    for ( a = start; a < end; a++ ) {
        uint8_t *orig = (uint8_t *)&a->orig_offset + a->orig_offset;
        const uint8_t *repl = (uint8_t *)&a->repl_offset + a->repl_offset;
        size_t total = a->orig_len + a->pad_len;

        BUG_ON(a->repl_len > total || a->cpuid >= NCAPINTS * 32);
        if ( !(boot_cpu_caps[a->cpuid / 32] & (1U << (a->cpuid % 32))) )
            continue;
        memcpy(orig, repl, a->repl_len);
        memset(orig + a->repl_len, 0x90, total - a->repl_len);
    }
}
