/* SPDX-License-Identifier: GPL-2.0-only */
/* The processor's own word. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <asm/processor.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return cpuid_eax(0) ? 0 : -EOPNOTSUPP;
}
XSPLICE_PREAPPLY_HOOK(check);
