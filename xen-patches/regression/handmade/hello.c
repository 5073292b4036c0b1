/* SPDX-License-Identifier: GPL-2.0-only */
/* T1: everything that a payload can bring, in one: see scenarios.json. */
#include <xen/errno.h>
#include <xen/lib.h>
#include <xsplice.h>
#ifdef CONFIG_X86
#include <asm/alternative.h>
#include <asm/asm_defns.h>
#endif

static unsigned int calls = 7; /* .data */
static unsigned int rounds;    /* .bss */

#ifdef CONFIG_X86
static int read_nowhere(void)
{
    int rc = 0;
    unsigned long value;

    asm volatile ( "1: mov (%[where]), %[value]\n"
                   "2:\n"
                   ".section .fixup, \"ax\"\n"
                   "3: mov %[fault], %[rc]\n"
                   "   jmp 2b\n"
                   ".previous\n"
                   _ASM_EXTABLE(1b, 3b)
                   : [rc] "+r" (rc), [value] "=&r" (value)
                   : [where] "r" (0x8badf00d8badf00dUL), [fault] "i" (-EFAULT) );

    return rc;
}
#endif

static const char *hello_world(void)
{
#ifdef CONFIG_X86
    alternative("nop", "pause", X86_FEATURE_LM);
    if ( read_nowhere() != -EFAULT )
        BUG();
#endif
    return "Hello World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, hello_world);

static void cf_check count(void)
{
    calls++;
    printk("xsplice hello: called %u times\n", calls - 7);
}

static void cf_check greet(void)
{
    rounds++;
}

static void cf_check check(void)
{
    /* Load hooks run at apply, unload hooks at revert: once each, as this is never re-applied. */
    BUG_ON(calls < 8 || calls > 9 || rounds != 1);
}
XSPLICE_LOAD_HOOK(greet);
XSPLICE_LOAD_HOOK(count);
XSPLICE_UNLOAD_HOOK(check);
XSPLICE_UNLOAD_HOOK(count);
XSPLICE_UNLOAD_HOOK(check);

#if XSPLICE_AT_LEAST(4, 14, 0)
XSPLICE_METADATA("LIVEPATCH=hello");
#endif
