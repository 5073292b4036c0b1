/* SPDX-License-Identifier: GPL-2.0-only */
/* The host's pages, which boot adds up. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/mm.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return total_pages > 1 ? 0 : -ENOMEM;
}
XSPLICE_PREAPPLY_HOOK(check);
