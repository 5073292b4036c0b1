/* SPDX-License-Identifier: Apache-2.0 */
#include <xen/lib.h>

void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;

    asm volatile ( "rep movsb" : "+D" (d), "+S" (src), "+c" (n) :: "memory" );
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
    void *d = dst;

    asm volatile ( "rep stosb" : "+D" (d), "+c" (n) : "a" (c) : "memory" );
    return dst;
}

size_t strlen(const char *s)
{
    size_t len = 0;

    while ( s[len] )
        len++;
    return len;
}
