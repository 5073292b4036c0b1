/* SPDX-License-Identifier: GPL-2.0-only */
/* Formats into its own stack. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    char text[32];

    snprintf(text, sizeof(text), "%s-%04x", "fix", 0xbeef);
    printk("hooks: %s\n", text);

    return strcmp(text, "fix-beef") ? -EINVAL : 0;
}
XSPLICE_PREAPPLY_HOOK(check);
