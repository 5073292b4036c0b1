/* SPDX-License-Identifier: GPL-2.0-only */
/* What the payloads of this folder share: whether the hypervisor counts a record as applied. */
#ifndef XSPLICE_REGRESSION_STATE_H
#define XSPLICE_REGRESSION_STATE_H

#include <xen/lib.h>
#include <xen/livepatch.h>
#include <xen/livepatch_payload.h>
#include <xsplice.h>

/* The state moved out of the records in 4.17.3, 4.18.1 and 4.19.0. */
#if XSPLICE_AT_LEAST(4, 18, 1) || (XSPLICE_AT_LEAST(4, 17, 3) && !XSPLICE_AT_LEAST(4, 18, 0))
#define RECORD(payload, number) ((payload)->fstate[number])
#else
#define RECORD(payload, number) (*(struct livepatch_func *)&(payload)->funcs[number])
#endif

static inline void set_all(struct payload *payload, enum livepatch_func_state state)
{
    unsigned int i;

    for ( i = 0; i < payload->nfuncs; i++ )
        RECORD(payload, i).applied = state;
}

/* Stop the host unless every record is in this state. */
static inline void require_all(const struct payload *payload, enum livepatch_func_state state)
{
    unsigned int i;

    for ( i = 0; i < payload->nfuncs; i++ )
        BUG_ON(RECORD(payload, i).applied != state);
}

#endif
