/* SPDX-License-Identifier: GPL-2.0-only */
/* An empty list of its own. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/list.h>
#include <xsplice.h>

static LIST_HEAD(entries);

static int cf_check check(struct payload *payload)
{
    return list_empty(&entries) ? 0 : -EBUSY;
}
XSPLICE_PREAPPLY_HOOK(check);
