/* SPDX-License-Identifier: GPL-2.0-only */
/* A host that takes payloads has run for longer. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/time.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    return NOW() > MILLISECS(100) ? -ETIME : 0;
}
XSPLICE_PREAPPLY_HOOK(check);
