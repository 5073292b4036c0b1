/* SPDX-License-Identifier: Apache-2.0 */
#include <xen/lib.h>
#include <xen/version.h>

struct elf_note {
    uint32_t namesz, descsz, type;
    char name[4];
};

extern const struct elf_note __note_gnu_build_id_start[], __note_gnu_build_id_end[];

unsigned int xen_major_version(void)
{
    return 4;
}

unsigned int xen_minor_version(void)
{
    return 17;
}

const char *xen_extra_version(void)
{
    return ".0-core";
}

const char *xen_compiler(void)
{
    return "gcc " __VERSION__;
}

int xen_build_id(const void **p, unsigned int *len)
{
    const struct elf_note *n = __note_gnu_build_id_start;

    if ( &n[1] > __note_gnu_build_id_end || n->type != 3 )
        return -ENOENT;
    *len = n->descsz;
    *p = &n[1];
    return 0;
}
