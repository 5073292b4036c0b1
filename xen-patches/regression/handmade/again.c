/* SPDX-License-Identifier: GPL-2.0-only */
/* T3: the hypervisor looks the function up by its name. */
#include <xsplice.h>

static const char *hello_again(void)
{
    return "Hello Again World!";
}
XSPLICE_REPLACE("xen_extra_version", hello_again);
