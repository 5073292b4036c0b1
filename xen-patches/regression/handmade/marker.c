/* SPDX-License-Identifier: GPL-2.0-only */
/* T10: the state of every record, as the hooks around the default actions see it. */
#include "state.h"

static const char *marked(void)
{
    return "Marked World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, marked);

static int cf_check before_apply(struct payload *payload)
{
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
    return 0;
}

static void cf_check after_apply(struct payload *payload)
{
    require_all(payload, LIVEPATCH_FUNC_APPLIED);
}

static int cf_check before_revert(struct payload *payload)
{
    require_all(payload, LIVEPATCH_FUNC_APPLIED);
    return 0;
}

static void cf_check after_revert(struct payload *payload)
{
    require_all(payload, LIVEPATCH_FUNC_NOT_APPLIED);
}

XSPLICE_PREAPPLY_HOOK(before_apply);
XSPLICE_POSTAPPLY_HOOK(after_apply);
XSPLICE_PREREVERT_HOOK(before_revert);
XSPLICE_POSTREVERT_HOOK(after_revert);
