/* SPDX-License-Identifier: GPL-2.0-only */
/* A timer that the hooks start and kill. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/timer.h>
#include <xsplice.h>

static struct timer timer;

static void cf_check tick(void *data)
{
    printk("hooks: tick\n");
}

static void cf_check arm(void)
{
    init_timer(&timer, tick, NULL, 0);
    set_timer(&timer, NOW() + SECONDS(1000));
}
XSPLICE_LOAD_HOOK(arm);

static void cf_check stop(void)
{
    kill_timer(&timer);
}
XSPLICE_UNLOAD_HOOK(stop);
