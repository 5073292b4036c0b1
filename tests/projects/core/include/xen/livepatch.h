/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * For the authors of live patches: a hook is a function pointer in a section
 * of its own. Nothing in the core uses these; an image leaves them out.
 */
#define LIVEPATCH_LOAD_HOOK(fn) \
    void (*const livepatch_load_data_##fn)(void) \
        __used __section(".livepatch.hooks.load") = fn
#define LIVEPATCH_UNLOAD_HOOK(fn) \
    void (*const livepatch_unload_data_##fn)(void) \
        __used __section(".livepatch.hooks.unload") = fn
