/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <xen/compiler.h>

typedef long (*hypercall_fn_t)(ulong_t a1, ulong_t a2, ulong_t a3);

long do_xen_version(ulong_t cmd, ulong_t arg, ulong_t unused);
long do_console_io(ulong_t cmd, ulong_t len, ulong_t buf);
long do_domctl(ulong_t cmd, ulong_t domid, ulong_t arg);
long do_hypercall(ulong_t nr, ulong_t a1, ulong_t a2, ulong_t a3);
