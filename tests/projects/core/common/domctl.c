/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/uaccess.h>
#include <public/xen.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
#include <xen/sched.h>

static long op_create(struct domain *d, ulong_t arg)
{
    char name[16] = "";

    if ( copy_guest(name, (const void *)arg, sizeof(name) - 1) )
        return -EFAULT;
    d = domain_create(name);
    return d ? (long)d->domain_id : -ENOMEM;
}

static long op_destroy(struct domain *d, ulong_t arg)
{
    return domain_destroy(d);
}

static long op_pause(struct domain *d, ulong_t arg)
{
    return cpu_settle(++d->pause_count);
}

static long op_unpause(struct domain *d, ulong_t arg)
{
    WARN_ON(!d->pause_count);
    return --d->pause_count;
}

static long op_info(struct domain *d, ulong_t arg)
{
    size_t len = clamp_len(strlen(d->name) + 1, sizeof(d->name));

    if ( copy_guest((void *)arg, d->name, len) )
        return -EFAULT;
    return d->max_pages;
}

static long op_max_mem(struct domain *d, ulong_t arg)
{
    uint32_t pages;

    if ( get_guest_u32(&pages, (const uint32_t *)arg) )
        return -EFAULT;
    d->max_pages = pages;
    return 0;
}

static const struct {
    const char *name;
    uint32_t min_arg;
    long (*fn)(struct domain *d, ulong_t arg);
} domctl_ops[] = {
    [XEN_DOMCTL_create] = { "create", 1, op_create },
    [XEN_DOMCTL_destroy] = { "destroy", 0, op_destroy },
    [XEN_DOMCTL_pause] = { "pause", 0, op_pause },
    [XEN_DOMCTL_unpause] = { "unpause", 0, op_unpause },
    [XEN_DOMCTL_info] = { "info", 4096, op_info },
    [XEN_DOMCTL_max_mem] = { "max_mem", 1, op_max_mem },
};

long do_domctl(ulong_t cmd, ulong_t domid, ulong_t arg)
{
    struct domain *d = domain_by_id(domid);

    if ( cmd >= ARRAY_SIZE(domctl_ops) )
        return -ENOSYS;
    if ( !d && cmd != XEN_DOMCTL_create )
        return -ENOENT;
    if ( arg < domctl_ops[cmd].min_arg )
        return -EINVAL;
    printk(domctl_ops[cmd].name);
    return domctl_ops[cmd].fn(d, arg);
}
