/* SPDX-License-Identifier: GPL-2.0-only */
/* T8 and T9: hooks that take the place of apply and revert, and patch nothing. */
#include "state.h"

static unsigned int applied, reverted;

#ifndef WITHOUT_RECORDS
static const char *unseen(void)
{
    return "Unseen World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, unseen);
#endif

static int cf_check apply(struct payload *payload)
{
    applied++;
    set_all(payload, LIVEPATCH_FUNC_APPLIED);
    return 0;
}

static int cf_check revert(struct payload *payload)
{
    reverted++;
    set_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
    return 0;
}

static void cf_check postrevert(struct payload *payload)
{
    BUG_ON(applied != 1 || reverted != 1);
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
}

XSPLICE_APPLY_HOOK(apply);
XSPLICE_REVERT_HOOK(revert);
XSPLICE_POSTREVERT_HOOK(postrevert);
