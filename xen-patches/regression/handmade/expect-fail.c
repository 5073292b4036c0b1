/* SPDX-License-Identifier: GPL-2.0-only */
/* T14: bytes are expected that no function starts with. */
#include <xsplice.h>

static const char *unexpected(void)
{
    return "Unexpected";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, unexpected);
XSPLICE_EXPECT("xen_extra_version", 0xde, 0xad, 0xc0, 0xde, 0xba, 0xbe);
