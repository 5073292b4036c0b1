/* SPDX-License-Identifier: Apache-2.0 */
#include <public/xen.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
#include <xen/percpu.h>

DEFINE_PER_CPU(unsigned int, hypercall_count);
ulong_t __per_cpu_offset[NR_CPUS];

/* Reached through the table alone. */
static long do_ni_hypercall(ulong_t a1, ulong_t a2, ulong_t a3)
{
    return -ENOSYS;
}

const hypercall_fn_t hypercall_table[] = {
    [0] = do_ni_hypercall,
    [__HYPERVISOR_xen_version] = do_xen_version,
    [__HYPERVISOR_console_io] = do_console_io,
    [__HYPERVISOR_domctl] = do_domctl,
};

long do_hypercall(ulong_t nr, ulong_t a1, ulong_t a2, ulong_t a3)
{
    if ( nr >= ARRAY_SIZE(hypercall_table) || !hypercall_table[nr] )
        nr = 0;
    this_cpu(hypercall_count)++;
    return hypercall_table[nr](a1, a2, a3);
}
