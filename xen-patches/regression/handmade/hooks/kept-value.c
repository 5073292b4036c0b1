/* SPDX-License-Identifier: GPL-2.0-only */
/* What one hook keeps, another one asks for. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/mm.h>
#include <xsplice.h>

static unsigned long kept;

static int cf_check keep(struct payload *payload)
{
    kept = max_page;

    return 0;
}
XSPLICE_PREAPPLY_HOOK(keep);

static int cf_check check(struct payload *payload)
{
    return kept ? 0 : -EINVAL;
}
XSPLICE_PREREVERT_HOOK(check);
