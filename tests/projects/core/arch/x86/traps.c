/* SPDX-License-Identifier: Apache-2.0 */
#include <xen/lib.h>

struct exception_table_entry {
    int32_t addr, cont;
};

extern const struct exception_table_entry __start___ex_table[], __stop___ex_table[];
extern const struct bug_frame __start_bug_frames[], __stop_bug_frames_0[],
    __stop_bug_frames_1[], __stop_bug_frames_2[], __stop_bug_frames_3[];

static const struct bug_frame *const stop_frames[] = {
    __stop_bug_frames_0, __stop_bug_frames_1, __stop_bug_frames_2, __stop_bug_frames_3,
};

/* Where does a fault at rip go on? 0 if nowhere. */
ulong_t search_exception_table(ulong_t rip)
{
    const struct exception_table_entry *e;

    for ( e = __start___ex_table; e < __stop___ex_table; e++ )
        if ( (ulong_t)&e->addr + e->addr == rip )
            return (ulong_t)&e->cont + e->cont;
    return 0;
}

/* Which frame does a ud2 at rip belong to? Its type and line, or -ENOENT. */
long do_invalid_op(ulong_t rip)
{
    const struct bug_frame *b = __start_bug_frames;
    unsigned int type;

    for ( type = 0; type < ARRAY_SIZE(stop_frames); type++ )
        for ( ; b < stop_frames[type]; b += type == BUGFRAME_assert ? 2 : 1 ) {
            unsigned int hi = (b->line_hi + (b->loc_disp < 0)) & 127;
            unsigned int lo = (b->line_lo + (b->ptr_disp < 0)) & 127;

            if ( (ulong_t)b + b->loc_disp == rip )
                return (type << 16) | (hi << 7) | lo;
        }
    return -ENOENT;
}

static void __used show_state(void)
{
    printk("state");
}

void dump_execution_state(void)
{
    run_in_exception_handler(show_state);
}
