/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Declarations of a live patch written by hand.
 *
 *     #include <xsplice.h>
 *
 *     static const char *new_extra_version(void) { return ".5-patched"; }
 *     XSPLICE_REPLACE("xen_extra_version", new_extra_version);
 *
 * Build it with `xsplice build hotfix.c --xen TREE --name NAME --out FILE`. The file is compiled
 * with the tree's own flags, so Xen's headers may be included too.
 *
 * Names are those of Xen's symbol table: "do_domctl", and "common/domctl.c#helper" for statics
 * ("domctl.c#helper" and "helper" do where only one function can be meant).
 *
 * XSPLICE_XEN_VERSION is the tree's release as a number: 41705 for 4.17.5.
 */
#ifndef XSPLICE_H
#define XSPLICE_H

/* References must not go through a GOT, which Xen's loader does not make; this stays in force for
 * the file that includes us, as after any header of Xen. */
#pragma GCC visibility push(hidden)
/* A hook of another type would be called all the same. */
#pragma GCC diagnostic error "-Wincompatible-pointer-types"

#define XSPLICE_AT_LEAST(major, minor, point) \
    (XSPLICE_XEN_VERSION >= (major) * 10000 + (minor) * 100 + (point))

/* ---- functions ---------------------------------------------------------------------------- */

/* Replace a function. The hypervisor looks its name up when the payload is loaded. */
#define XSPLICE_REPLACE(name, function) \
    XSPLICE_DECLARE_(XSPLICE_KIND_REPLACE, name, 0, 0, function, { 0 })

/* Send execution to `function` from `offset` bytes behind a name, whose address the hypervisor
 * finds by a relocation. 0 replaces the function; other offsets must start an instruction. */
#define XSPLICE_REPLACE_AT(name, offset, function) \
    XSPLICE_DECLARE_(XSPLICE_KIND_REPLACE_AT, name, offset, 0, function, { 0 })

/* The same at an address of this very build. */
#define XSPLICE_REPLACE_ADDRESS(address, function) \
    XSPLICE_DECLARE_(XSPLICE_KIND_REPLACE_ADDRESS, "", address, 0, function, { 0 })

/* Turn `size` bytes (at most 31, whole instructions) into NOPs. */
#define XSPLICE_NOP(name, offset, size) \
    XSPLICE_DECLARE_(XSPLICE_KIND_NOP, name, offset, size, 0, { 0 })
#define XSPLICE_NOP_ADDRESS(address, size) \
    XSPLICE_DECLARE_(XSPLICE_KIND_NOP_ADDRESS, "", address, size, 0, { 0 })

/* Turn a short function into NOPs up to the instruction that leaves it. */
#define XSPLICE_NOP_BODY(name) \
    XSPLICE_DECLARE_(XSPLICE_KIND_NOP_BODY, name, 0, 0, 0, { 0 })

/* ---- expectations: by default a record expects what the image holds ------------------------ */

/* Expect these bytes at a function that this payload declares: XSPLICE_EXPECT("f", 0x31, 0xc0). */
#define XSPLICE_EXPECT(name, ...) XSPLICE_EXPECT_AT(name, 0, __VA_ARGS__)
#define XSPLICE_EXPECT_AT(name, offset, ...) \
    XSPLICE_DECLARE_(XSPLICE_KIND_EXPECT, name, offset, \
                     sizeof((unsigned char[]){ __VA_ARGS__ }), 0, { __VA_ARGS__ })
/* Expect the image's first `size` bytes. */
#define XSPLICE_EXPECT_IMAGE(name, size) \
    XSPLICE_DECLARE_(XSPLICE_KIND_EXPECT_IMAGE, name, 0, size, 0, { 0 })
/* Expect nothing. */
#define XSPLICE_EXPECT_NOTHING(name) \
    XSPLICE_DECLARE_(XSPLICE_KIND_EXPECT, name, 0, 0, 0, { 0 })

/* ---- hooks: mark the functions `cf_check` as Xen's own are --------------------------------- */

/* A hook, and each function of yours whose address you use (a timer's, a table's), must be marked,
 *     static void cf_check arm(void) { ... }
 * where Xen has CONFIG_XEN_IBT: a processor with CET-IBT stops at an indirect call to another one.
 * It is refused there, and does no harm elsewhere. A replaced function is entered by a jump.
 *
 * Other CPUs run the replaced functions before a postapply hook does: where such a hook sets a
 * pointer (or cannot, for memory is out), they must test it for NULL. */
#ifndef cf_check /* releases before 4.17 have no such mark */
#define cf_check
#endif

struct payload;

/* At every apply (revert), while all CPUs wait; any number of them. */
#define XSPLICE_LOAD_HOOK(function) XSPLICE_HOOK_(load, void, (void), function)
#define XSPLICE_UNLOAD_HOOK(function) XSPLICE_HOOK_(unload, void, (void), function)
/* One of each, since 4.14. A non-zero result of `pre` and action hooks refuses. */
#define XSPLICE_PREAPPLY_HOOK(function) \
    XSPLICE_HOOK_(preapply, int, (struct payload *), function)
#define XSPLICE_APPLY_HOOK(function) XSPLICE_HOOK_(apply, int, (struct payload *), function)
#define XSPLICE_POSTAPPLY_HOOK(function) \
    XSPLICE_HOOK_(postapply, void, (struct payload *), function)
#define XSPLICE_PREREVERT_HOOK(function) \
    XSPLICE_HOOK_(prerevert, int, (struct payload *), function)
#define XSPLICE_REVERT_HOOK(function) XSPLICE_HOOK_(revert, int, (struct payload *), function)
#define XSPLICE_POSTREVERT_HOOK(function) \
    XSPLICE_HOOK_(postrevert, void, (struct payload *), function)

/* ---- the rest ------------------------------------------------------------------------------ */

/* A line of metadata, which `xen-livepatch list` shows: XSPLICE_METADATA("fixes=XSA-1"). */
#define XSPLICE_METADATA(text) \
    static const char XSPLICE_UNIQUE_(xsplice_metadata_)[] \
        __attribute__((used, aligned(1), section(".modinfo"))) = text

/* Let `identifier`, which is declared extern here, mean a static of Xen:
 *     extern unsigned int opt_static;
 *     XSPLICE_SYMBOL(opt_static, "common/file.c#opt");
 * What is declared here, and not by a header of Xen, must have Xen's own size and type; so must a
 * structure that is defined here under a name of Xen's. */
#define XSPLICE_SYMBOL(identifier, name) \
    XSPLICE_DECLARE_(XSPLICE_KIND_SYMBOL, name, 0, 0, &(identifier), { 0 })

/* ---- how it is told ------------------------------------------------------------------------ */

enum {
    XSPLICE_KIND_REPLACE = 1,
    XSPLICE_KIND_REPLACE_AT = 2,
    XSPLICE_KIND_REPLACE_ADDRESS = 3,
    XSPLICE_KIND_NOP = 4,
    XSPLICE_KIND_NOP_ADDRESS = 5,
    XSPLICE_KIND_NOP_BODY = 6,
    XSPLICE_KIND_EXPECT = 7,
    XSPLICE_KIND_EXPECT_IMAGE = 8,
    XSPLICE_KIND_SYMBOL = 9,
};

struct xsplice_declaration {
    unsigned int magic; /* "XSPL", little endian */
    unsigned short version;
    unsigned short kind;
    unsigned long where; /* offset or address */
    unsigned long size;
    const volatile void *object;
    unsigned int line;
    char name[132];
    unsigned char bytes[32];
};

#define XSPLICE_JOIN2_(a, b) a##b
#define XSPLICE_JOIN_(a, b) XSPLICE_JOIN2_(a, b)
#define XSPLICE_UNIQUE_(stem) XSPLICE_JOIN_(stem, __COUNTER__)

#define XSPLICE_DECLARE_(what, text, place, bytes_, object_, ...) \
    static struct xsplice_declaration XSPLICE_UNIQUE_(xsplice_declaration_) \
        __attribute__((used, aligned(8), section(".xsplice.decl"))) = { \
            .magic = 0x4c505358, \
            .version = 1, \
            .kind = what, \
            .where = place, \
            .size = bytes_, \
            .object = object_, \
            .line = __LINE__, \
            .name = text, \
            .bytes = __VA_ARGS__, \
        }

#define XSPLICE_HOOK_(kind, result, arguments, function) \
    static result(*XSPLICE_UNIQUE_(xsplice_hook_)) arguments \
        __attribute__((used, no_reorder, section(".livepatch.hooks." #kind))) = function

#endif /* XSPLICE_H */
