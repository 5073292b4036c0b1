/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
unsigned int xen_major_version(void);
unsigned int xen_minor_version(void);
const char *xen_extra_version(void);
const char *xen_compiler(void);
int xen_build_id(const void **p, unsigned int *len);
