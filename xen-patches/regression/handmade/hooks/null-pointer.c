/* SPDX-License-Identifier: GPL-2.0-only */
/* Reads through a null pointer. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xsplice.h>

static int *volatile nowhere;

static int cf_check check(struct payload *payload)
{
    return *nowhere;
}
XSPLICE_PREAPPLY_HOOK(check);
