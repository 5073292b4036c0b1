/* SPDX-License-Identifier: GPL-2.0-only */
/* Compares without a branch. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <asm/processor.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return -(boot_cpu_data.x86_model == 0xab);
}
XSPLICE_PREAPPLY_HOOK(check);
