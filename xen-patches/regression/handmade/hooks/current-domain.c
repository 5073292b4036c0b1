/* SPDX-License-Identifier: GPL-2.0-only */
/* Who asked? */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/sched.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return current->domain == hardware_domain ? 0 : -EPERM;
}
XSPLICE_PREAPPLY_HOOK(check);
