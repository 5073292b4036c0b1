/* SPDX-License-Identifier: GPL-2.0-only */
/* T2: the same function again; built with --depends on hello. */
#include <xsplice.h>

static const char *bye_world(void)
{
    return "Bye World!";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, bye_world);
