# SPDX-License-Identifier: Apache-2.0
"""Functions of Xen of which it is known what they do with the addresses that they are given."""

from __future__ import annotations

import re

#: Functions of Xen that read what they are given and keep no pointer to it.
#: Source: xen/include/xen/{lib,string,spinlock,bitmap,kexec}.h, xen/include/asm/{uaccess,
#: guest_access,hvm/emulate}.h and their definitions.
READER = re.compile(
    r"v?printk|panic|guest_printk|debugtrace_printk|v?sn?c?n?printf|str(n?case)?n?cmp|strn?len"
    r"|memcmp|strl(cpy|cat)|str(spn|pbrk)|bitmap_scn(list)?printf"
    r"|(__|unsafe_)?copy_(to|from)_(user|guest)(_pv|_hvm|_ll)?"
    r"|_(spin|read|write)_(un|try)?lock(_irq|_irqsave|_irqrestore|_recursive)?"
    r"|hvm_dump_emulation_state|vmcoreinfo_append_str|_spin_is_locked|(__)?find_(first|next)_(zero_)?bit|__bitmap_\w+"
)
#: Those that return one of the pointers they are given.
PASSING = re.compile(r"mem(cpy|move|set|chr|chr_inv)|str(r?chr|str|sep)")
#: Those that never return. Source: xen/include/xen/{lib,shutdown}.h.
ENDING = re.compile(r"panic|machine_(halt|restart)")
RETURN_THUNK = "__x86_return_thunk"
THUNK = re.compile(r"__x86_indirect_thunk_(\w+)")
#: Those that copy what their second argument leads to. Source: as above.
COPYING = re.compile(r"mem(cpy|move)|(__|unsafe_)?copy_to_(user|guest)(_pv|_hvm|_ll)?")
#: Those that read a text as a number, and store where that ends if they are told where to.
NUMBERS = re.compile(r"simple_strtou?ll?")
#: Those that write numbers as text, addresses among them.
FORMATTING = re.compile(r"v?sn?c?n?printf")
#: Those that call back: which argument is the function, and as which argument it gets another one.
#: Source: xen/include/xen/{timer,tasklet,irq,rcupdate,smp,spinlock,stop_machine}.h.
CALLBACKS: dict[str, tuple[int, int, int]] = {
    "init_timer": (1, 2, 0),
    "tasklet_init": (1, 2, 0),
    "softirq_tasklet_init": (1, 2, 0),
    "request_irq": (2, 4, 1),
    "call_rcu": (1, 0, 0),
    "on_selected_cpus": (1, 2, 0),
    "smp_call_function": (0, 1, 0),
    "stop_machine_run": (0, 1, 0),
    "_spin_lock_cb": (1, 2, 0),
}
