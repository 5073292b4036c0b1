/* SPDX-License-Identifier: GPL-2.0-only */
/* Relies on the zeros of xzalloc. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/xmalloc.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    char *text = xzalloc_array(char, 5000);
    int rc;

    if ( !text )
        return -ENOMEM;

    rc = text[4999] ? -EINVAL : 0;
    xfree(text);

    return rc;
}
XSPLICE_PREAPPLY_HOOK(check);
