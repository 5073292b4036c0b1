/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/uaccess.h>
#include <public/xen.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
#include <xen/version.h>

extern const char _stext[];
extern char saved_cmdline[XENVER_TEXT_LEN];

/* Copy a NUL-terminated answer, cut to what the caller's buffer holds. */
static noinline long reply(ulong_t arg, const char *text)
{
    size_t len = clamp_len(strlen(text), XENVER_TEXT_LEN - 1);
    size_t left;

    stac();
    left = copy_guest((void *)arg, text, len);
    left += copy_guest((char *)arg + len, "", 1);
    clac();
    return left ? -EFAULT : 0;
}

long do_xen_version(ulong_t cmd, ulong_t arg, ulong_t unused)
{
    const void *id = NULL;
    unsigned int len = 0;

    switch ( cmd ) {
    case XENVER_version:
        return (xen_major_version() << 16) | xen_minor_version();
    case XENVER_extraversion:
        return reply(arg, xen_extra_version());
    case XENVER_compile_info:
        return reply(arg, xen_compiler());
    case XENVER_capabilities:
        return reply(arg, "xen-3.0-x86_64 hvm-3.0-x86_64");
    case XENVER_platform_parameters:
        return (ulong_t)_stext >> 32;
    case XENVER_pagesize:
        return arg ? clamp_len(arg, 4096) : 4096;
    case XENVER_commandline:
        return reply(arg, saved_cmdline);
    case XENVER_build_id:
        if ( xen_build_id(&id, &len) || copy_guest((void *)arg, id, len) )
            return -EFAULT;
        return len;
    }
    return -ENOSYS;
}
