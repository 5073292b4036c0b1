/* SPDX-License-Identifier: Apache-2.0 */
#ifndef XSPLICE_TAG_STORE /* this file may include itself */
#define XSPLICE_TAG_STORE

#include <xen/compiler.h>
#include <xen/irq.h>
#include <xen/lib.h>
#include <xen/livepatch_payload.h>
#include <xen/spinlock.h>
#include <xen/xmalloc.h>

#define XSPLICE_CHAINS 16  /* the model follows a hook through so many */
#define XSPLICE_RESERVE 64 /* objects whose shadows need no memory of Xen: for when there is none */

static struct xsplice_TAG_shadow *xsplice_TAG_shadows[XSPLICE_CHAINS];
static struct xsplice_TAG_shadow xsplice_TAG_reserve[XSPLICE_RESERVE];
static DEFINE_SPINLOCK(xsplice_TAG_lock);

static struct xsplice_TAG_shadow **xsplice_TAG_chain(const STRUCTURE *of)
{
    unsigned long addr = (unsigned long)of;

    return &xsplice_TAG_shadows[((addr >> 12) ^ (addr >> 6)) % XSPLICE_CHAINS];
}

/* What the reserve holds for an object; for NULL, what is free. */
static struct xsplice_TAG_shadow *xsplice_TAG_reserved(const STRUCTURE *of)
{
    unsigned int i;

    for ( i = 0; i < XSPLICE_RESERVE; i++ )
        if ( xsplice_TAG_reserve[i].of == of )
            return &xsplice_TAG_reserve[i];

    return NULL;
}

static void xsplice_TAG_start(struct xsplice_TAG_shadow *s, const STRUCTURE *of)
{
    memset(s, 0, sizeof(*s));
    s->of = of;
INITS}

/* The shadow of an object, made when it is first asked for. */
noinline struct xsplice_TAG_shadow *xsplice_TAG_shadow(const STRUCTURE *of)
{
    struct xsplice_TAG_shadow **chain = xsplice_TAG_chain(of);
    struct xsplice_TAG_shadow *s, *fresh = NULL;
    bool may_allocate = !in_irq() && local_irq_is_enabled();
    unsigned long flags;

    for ( ; ; )
    {
        spin_lock_irqsave(&xsplice_TAG_lock, flags);
        for ( s = *chain; s && s->of != of; s = s->next )
            continue;
        if ( !s )
            s = xsplice_TAG_reserved(of);
        if ( !s && fresh )
        {
            s = fresh;
            fresh = NULL;
            xsplice_TAG_start(s, of);
            s->next = *chain;
            *chain = s;
        }
        if ( !s && !may_allocate && (s = xsplice_TAG_reserved(NULL)) != NULL )
            xsplice_TAG_start(s, of);
        spin_unlock_irqrestore(&xsplice_TAG_lock, flags);
        if ( s )
            break;
        if ( !may_allocate )
            panic("xsplice: no memory for what belongs to a STRUCTURE\n");
        fresh = xmalloc(struct xsplice_TAG_shadow);
        may_allocate = fresh;
    }
    xfree(fresh);

    return s;
}

/* Called where an object dies: another may be made at its address. */
void xsplice_TAG_drop(const STRUCTURE *of)
{
    struct xsplice_TAG_shadow **link = xsplice_TAG_chain(of), *s, *kept;
    unsigned long flags;

    spin_lock_irqsave(&xsplice_TAG_lock, flags);
    while ( (s = *link) != NULL && s->of != of )
        link = &s->next;
    if ( s )
        *link = s->next;
    else if ( of && (kept = xsplice_TAG_reserved(of)) != NULL )
        kept->of = NULL;
    spin_unlock_irqrestore(&xsplice_TAG_lock, flags);
    xfree(s);
}

static void cf_check xsplice_TAG_end(livepatch_payload_t *payload)
{
    struct xsplice_TAG_shadow *s;
    unsigned int i;

    for ( i = 0; i < XSPLICE_CHAINS; i++ )
        while ( (s = xsplice_TAG_shadows[i]) != NULL )
        {
            xsplice_TAG_shadows[i] = s->next;
            xfree(s);
        }
}
LIVEPATCH_POSTREVERT_HOOK(xsplice_TAG_end);

#endif
