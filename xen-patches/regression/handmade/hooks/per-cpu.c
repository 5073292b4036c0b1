/* SPDX-License-Identifier: GPL-2.0-only */
/* The virtual CPU that this CPU runs. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/sched.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return this_cpu(curr_vcpu) ? 0 : -ESRCH;
}
XSPLICE_PREAPPLY_HOOK(check);
