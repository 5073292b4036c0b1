/* SPDX-License-Identifier: GPL-2.0-only */
/* A number that boot counted. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/cpumask.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return nr_cpu_ids ? 0 : -EIO;
}
XSPLICE_PREAPPLY_HOOK(check);
