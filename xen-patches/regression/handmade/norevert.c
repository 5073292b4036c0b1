/* SPDX-License-Identifier: GPL-2.0-only */
/* T12: a revert hook that fails; the hook behind it reverts by hand. */
#include <xen/errno.h>
#include "state.h"

static unsigned int tried;

static const char *stubborn(void)
{
    return "Stubborn World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, stubborn);

static int cf_check revert(struct payload *payload)
{
    tried++;
    return -EINVAL;
}

static void cf_check postrevert(struct payload *payload)
{
    BUG_ON(tried != 1 || payload->rc != -EINVAL);
    require_all(payload, LIVEPATCH_FUNC_APPLIED);
    BUG_ON(revert_payload(payload));
    revert_payload_tail(payload);
}

XSPLICE_REVERT_HOOK(revert);
XSPLICE_POSTREVERT_HOOK(postrevert);
