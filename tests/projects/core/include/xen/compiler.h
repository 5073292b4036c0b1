/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * Everything is linked into one image: hidden visibility also for what is only
 * declared, or -fpic would ask for GOT entries, which no payload may have.
 */
#pragma GCC visibility push(hidden)

typedef signed int int32_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long size_t, ulong_t;

#define NULL ((void *)0)

#define __used __attribute__((__used__))
#define __packed __attribute__((__packed__))
#define __section(s) __attribute__((__section__(s)))
#define noinline __attribute__((__noinline__))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Freed after boot: nothing in these sections can be live patched. */
#define __init __section(".init.text") noinline
#define __initdata __section(".init.data")
#define __initconst __section(".init.rodata")
#define __read_mostly __section(".data.read_mostly")

enum { ENOENT = 2, ENOMEM = 12, EFAULT = 14, EBUSY = 16, EINVAL = 22, ENOSYS = 38 };
