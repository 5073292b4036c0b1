/* SPDX-License-Identifier: Apache-2.0 */
#ifndef XSPLICE_TAG_STORE /* this file may include itself */
#define XSPLICE_TAG_STORE

#include <xen/compiler.h>
#include <xen/irq.h>
#include <xen/lib.h>
#include <xen/livepatch_payload.h>
#include <xen/spinlock.h>
#include <xen/xmalloc.h>

#define XSPLICE_CHAINS 16    /* the model follows a hook through so many */
#define XSPLICE_RESERVE 4096 /* objects whose shadows need no memory of Xen, where none is given */
#define XSPLICE_HEADS 1024

static struct xsplice_TAG_shadow *xsplice_TAG_shadows[XSPLICE_CHAINS];
static struct xsplice_TAG_shadow xsplice_TAG_reserve[XSPLICE_RESERVE];
/* Numbers in the reserve, from one on: no address of the payload's own is in memory of Xen. */
static unsigned int xsplice_TAG_heads[XSPLICE_HEADS], xsplice_TAG_spare, xsplice_TAG_used;
static DEFINE_SPINLOCK(xsplice_TAG_lock);

static unsigned int xsplice_TAG_hash(const STRUCTURE *of)
{
    unsigned long addr = (unsigned long)of;

    return (addr >> 12) ^ (addr >> 6);
}

static struct xsplice_TAG_shadow **xsplice_TAG_chain(const STRUCTURE *of)
{
    return &xsplice_TAG_shadows[xsplice_TAG_hash(of) % XSPLICE_CHAINS];
}

/* Where the number of what the reserve holds for an object stands, or would. */
static unsigned int *xsplice_TAG_place(const STRUCTURE *of)
{
    unsigned int *at = &xsplice_TAG_heads[xsplice_TAG_hash(of) % XSPLICE_HEADS];

    while ( *at && xsplice_TAG_reserve[*at - 1].of != of )
        at = &xsplice_TAG_reserve[*at - 1].number;

    return at;
}

static void xsplice_TAG_start(struct xsplice_TAG_shadow *s, const STRUCTURE *of)
{
    memset(s, 0, sizeof(*s));
    s->of = of;
INITS}

static struct xsplice_TAG_shadow *xsplice_TAG_reserved(const STRUCTURE *of, bool may_take)
{
    unsigned int *at = xsplice_TAG_place(of), number = *at;

    if ( !number && may_take )
    {
        if ( (number = xsplice_TAG_spare) != 0 )
            xsplice_TAG_spare = xsplice_TAG_reserve[number - 1].number;
        else if ( xsplice_TAG_used < XSPLICE_RESERVE )
            number = ++xsplice_TAG_used;
        if ( number )
            xsplice_TAG_start(&xsplice_TAG_reserve[number - 1], of);
        *at = number;
    }

    return number ? &xsplice_TAG_reserve[number - 1] : NULL;
}

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
            s = xsplice_TAG_reserved(of, !may_allocate);
        if ( !s && fresh )
        {
            s = fresh;
            fresh = NULL;
            xsplice_TAG_start(s, of);
            s->next = *chain;
            *chain = s;
        }
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
    struct xsplice_TAG_shadow **link = xsplice_TAG_chain(of), *s;
    unsigned int *at, number;
    unsigned long flags;

    spin_lock_irqsave(&xsplice_TAG_lock, flags);
    while ( (s = *link) != NULL && s->of != of )
        link = &s->next;
    if ( s )
        *link = s->next;
    else if ( (number = *(at = xsplice_TAG_place(of))) != 0 )
    {
        *at = xsplice_TAG_reserve[number - 1].number;
        xsplice_TAG_reserve[number - 1].number = xsplice_TAG_spare;
        xsplice_TAG_spare = number;
    }
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
