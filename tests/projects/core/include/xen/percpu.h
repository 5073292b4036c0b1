/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <xen/compiler.h>

#define NR_CPUS 2

extern ulong_t __per_cpu_offset[NR_CPUS];

#define DEFINE_PER_CPU(type, name) \
    __section(".bss.percpu") type per_cpu__##name
#define DECLARE_PER_CPU(type, name) extern type per_cpu__##name
#define per_cpu(name, cpu) \
    (*(typeof(&per_cpu__##name))((char *)&per_cpu__##name + __per_cpu_offset[cpu]))
#define this_cpu(name) per_cpu(name, 0)
