/* SPDX-License-Identifier: GPL-2.0-only */
/* Time does not run backwards. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/time.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    s_time_t start = NOW();

    return NOW() >= start ? 0 : -ETIME;
}
XSPLICE_PREAPPLY_HOOK(check);
