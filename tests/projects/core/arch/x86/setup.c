/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/alternative.h>
#include <public/xen.h>
#include <xen/lib.h>
#include <xen/version.h>

extern struct alt_instr __alt_instructions[], __alt_instructions_end[];

char saved_cmdline[XENVER_TEXT_LEN];

static const char __initconst default_cmdline[XENVER_TEXT_LEN] = "loglvl=2";
static unsigned int __initdata setup_calls;

static void __init parse_cmdline(const char *cmdline)
{
    memcpy(saved_cmdline, cmdline, sizeof(saved_cmdline) - 1);
    if ( strlen(saved_cmdline) > 7 && cmdline[6] == '=' )
        console_loglevel = cmdline[7] - '0';
}

/* Boot, with room for XENVER_TEXT_LEN bytes: returns how often it was called. */
long __init init_core(const char *cmdline)
{
    parse_cmdline(cmdline ?: default_cmdline);
    apply_alternatives(__alt_instructions, __alt_instructions_end);
    printk(xen_extra_version());
    return ++setup_calls;
}
