/* SPDX-License-Identifier: GPL-2.0-only */
/* At least one domain must be there. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/sched.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    const struct domain *d;
    unsigned int count = 0;

    for_each_domain ( d )
        count++;

    return count ? 0 : -ESRCH;
}
XSPLICE_PREAPPLY_HOOK(check);
