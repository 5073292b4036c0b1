/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#define __HYPERVISOR_xen_version 17
#define __HYPERVISOR_console_io 18
#define __HYPERVISOR_domctl 36

enum {
    XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities,
    XENVER_platform_parameters = 5, XENVER_get_features, XENVER_pagesize,
    XENVER_commandline = 9, XENVER_build_id,
};
#define XENVER_TEXT_LEN 64 /* longest answer, with its NUL */

enum { CONSOLEIO_write, CONSOLEIO_read, CONSOLEIO_level };

enum {
    XEN_DOMCTL_create, XEN_DOMCTL_destroy, XEN_DOMCTL_pause,
    XEN_DOMCTL_unpause, XEN_DOMCTL_info, XEN_DOMCTL_max_mem,
};
