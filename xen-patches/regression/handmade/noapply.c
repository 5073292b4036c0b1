/* SPDX-License-Identifier: GPL-2.0-only */
/* T11: an apply hook that fails and leaves every record unapplied. */
#include <xen/errno.h>
#include "state.h"

static unsigned int tried;

static const char *unapplied(void)
{
    return "Unapplied World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, unapplied);

static int cf_check apply(struct payload *payload)
{
    tried++;
    return -EINVAL;
}

static void cf_check postapply(struct payload *payload)
{
    BUG_ON(tried != 1 || payload->rc != -EINVAL);
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
}

static int cf_check prerevert(struct payload *payload)
{
    BUG();
    return 0;
}

XSPLICE_APPLY_HOOK(apply);
XSPLICE_POSTAPPLY_HOOK(postapply);
XSPLICE_PREREVERT_HOOK(prerevert);
