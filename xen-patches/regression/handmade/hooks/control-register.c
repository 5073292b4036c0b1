/* SPDX-License-Identifier: GPL-2.0-only */
/* What only a processor can tell. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <asm/processor.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return read_cr4() & X86_CR4_PAE ? 0 : -EOPNOTSUPP;
}
XSPLICE_PREAPPLY_HOOK(check);
