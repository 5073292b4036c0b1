/* SPDX-License-Identifier: GPL-2.0-only */
/* Dies on every host that runs. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/sched.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    BUG_ON(hardware_domain);

    return 0;
}
XSPLICE_PREAPPLY_HOOK(check);
