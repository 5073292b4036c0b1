/* SPDX-License-Identifier: GPL-2.0-only */
/* T7: apply is vetoed, and no other hook runs. */
#include <xen/errno.h>
#include "state.h"

static const char *never(void)
{
    return "Never World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, never);

static int cf_check preapply(struct payload *payload)
{
    return -EINVAL;
}

static void cf_check postapply(struct payload *payload)
{
    BUG();
}

static int cf_check prerevert(struct payload *payload)
{
    BUG();
    return 0;
}

static void cf_check postrevert(struct payload *payload)
{
    BUG();
}

XSPLICE_PREAPPLY_HOOK(preapply);
XSPLICE_POSTAPPLY_HOOK(postapply);
XSPLICE_PREREVERT_HOOK(prerevert);
XSPLICE_POSTREVERT_HOOK(postrevert);
