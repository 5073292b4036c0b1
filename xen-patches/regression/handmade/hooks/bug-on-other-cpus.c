/* SPDX-License-Identifier: GPL-2.0-only */
/* Lives where it happens to run on the first CPU. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/smp.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    BUG_ON(smp_processor_id());

    return 0;
}
XSPLICE_PREAPPLY_HOOK(check);
