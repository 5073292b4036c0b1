/* SPDX-License-Identifier: Apache-2.0 */
#include <xen/lib.h>
#include <xen/sched.h>

static struct domain domain0 = {
    .refcnt = 1,
    .max_pages = 0x10000,
    .arch = { .flags = 1, .tsc_khz = 2000000 },
    .name = "Domain-0",
};

static struct domain domain_pool[MAX_DOMAINS];
struct domain *domain_list = &domain0;
unsigned int nr_domains = 1;

static noinline void reset(struct domain *d)
{
    static unsigned int next_domid = 1;

    memset(d, 0, sizeof(*d));
    d->domain_id = next_domid++ & 0x7fff;
}

struct domain *domain_by_id(unsigned int domid)
{
    struct domain *d;

    for ( d = domain_list; d; d = d->next )
        if ( d->domain_id == domid )
            break;
    return d;
}

struct domain *domain_create(const char *name)
{
    struct domain *d = domain_pool;

    while ( d->refcnt )
        if ( ++d == domain_pool + MAX_DOMAINS )
            return NULL;
    reset(d);
    memcpy(d->name, name, clamp_len(strlen(name), sizeof(d->name) - 1));
    if ( arch_domain_create(d) )
        return NULL;
    d->refcnt = 1;
    d->next = domain_list->next;
    domain_list->next = d;
    nr_domains++;
    return d;
}

int domain_destroy(struct domain *d)
{
    struct domain **p;

    BUG_ON(!d->refcnt);
    if ( d == &domain0 || d->pause_count )
        return -EBUSY;
    for ( p = &domain_list; *p != d; p = &(*p)->next )
        ASSERT((*p)->next);
    *p = d->next;
    d->refcnt = 0;
    arch_domain_destroy(d);
    nr_domains--;
    return 0;
}
