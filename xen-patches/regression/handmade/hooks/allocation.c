/* SPDX-License-Identifier: GPL-2.0-only */
/* Borrows memory and gives it back. */
#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/livepatch.h>
#include <xen/xmalloc.h>
#include <xsplice.h>

static int cf_check check(struct payload *payload)
{
    unsigned int i, sum = 0, *numbers = xmalloc_array(unsigned int, 100);

    if ( !numbers )
        return -ENOMEM;

    for ( i = 0; i < 100; i++ )
        numbers[i] = i;
    for ( i = 0; i < 100; i++ )
        sum += numbers[i];
    xfree(numbers);

    return sum == 4950 ? 0 : -EINVAL;
}
XSPLICE_PREAPPLY_HOOK(check);
