/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <xen/compiler.h>

#define MAX_DOMAINS 4

struct arch_domain {
    uint32_t flags;
    uint32_t tsc_khz;
};

/* Private layout, shared by every object that walks the list. */
struct domain {
    uint32_t domain_id, refcnt;
    uint32_t pause_count, max_pages;
    struct arch_domain arch;
    struct domain *next;
    char name[16];
};

extern struct domain *domain_list;
extern unsigned int nr_domains;

struct domain *domain_create(const char *name);
struct domain *domain_by_id(unsigned int domid);
int domain_destroy(struct domain *d);
int arch_domain_create(struct domain *d);
void arch_domain_destroy(struct domain *d);
