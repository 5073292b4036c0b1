/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * T4: the body of a function becomes NOPs, up to the instruction that leaves it.
 *
 * Not xen_minor_version, as in Xen's own test: without its body it would return whatever its
 * caller left in a register.
 */
#include <xsplice.h>

XSPLICE_NOP_BODY("add_taint");
