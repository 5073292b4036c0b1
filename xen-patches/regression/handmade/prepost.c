/* SPDX-License-Identifier: GPL-2.0-only */
/* T6: the hooks around apply and revert, in order; the first revert is vetoed. */
#include "state.h"

static unsigned int preapplied, postapplied, prereverted;

static const char *hooked(void)
{
    return "Hooked World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, hooked);

static int cf_check preapply(struct payload *payload)
{
    BUG_ON(preapplied++ || postapplied || prereverted);
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
    return 0;
}

static void cf_check postapply(struct payload *payload)
{
    BUG_ON(preapplied != 1 || postapplied++ || prereverted);
    require_all(payload, LIVEPATCH_FUNC_APPLIED);
}

static int cf_check prerevert(struct payload *payload)
{
    BUG_ON(preapplied != 1 || postapplied != 1);
    require_all(payload, LIVEPATCH_FUNC_APPLIED);
    return prereverted++ ? 0 : -1;
}

static void cf_check postrevert(struct payload *payload)
{
    BUG_ON(preapplied != 1 || postapplied != 1 || prereverted != 2);
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
}

XSPLICE_PREAPPLY_HOOK(preapply);
XSPLICE_POSTAPPLY_HOOK(postapply);
XSPLICE_PREREVERT_HOOK(prerevert);
XSPLICE_POSTREVERT_HOOK(postrevert);
