/* SPDX-License-Identifier: GPL-2.0-only */
/* Dies everywhere. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    BUG();

    return 0;
}
XSPLICE_PREAPPLY_HOOK(check);
