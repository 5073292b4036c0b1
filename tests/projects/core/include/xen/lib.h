/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <asm/bug.h>
#include <xen/compiler.h>

void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
size_t strlen(const char *s);

extern unsigned int console_loglevel;
void printk(const char *msg);

/* Inlined into several objects: a fix here changes each of them. */
static inline size_t clamp_len(size_t len, size_t max)
{
    return len > max ? max : len;
}
