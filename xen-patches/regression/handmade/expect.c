/* SPDX-License-Identifier: GPL-2.0-only */
/* T13: eight bytes of the image are expected. */
#include <xsplice.h>

static const char *expected(void)
{
    return "Expected World";
}
XSPLICE_REPLACE_AT("xen_extra_version", 0, expected);
XSPLICE_EXPECT_IMAGE("xen_extra_version", 8);
