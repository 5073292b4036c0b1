/* SPDX-License-Identifier: GPL-2.0-only */
/* Takes a lock of its own. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/spinlock.h>
#include <xsplice.h>

static DEFINE_SPINLOCK(lock);
static unsigned int count;

static int cf_check check(struct payload *payload)
{
    unsigned long flags;

    spin_lock_irqsave(&lock, flags);
    count++;
    spin_unlock_irqrestore(&lock, flags);

    return count == 1 ? 0 : -EBUSY;
}
XSPLICE_PREAPPLY_HOOK(check);
