/* SPDX-License-Identifier: Apache-2.0 */
        .file "arch/x86/entry.S"

        .macro function name, section
        .section \section, "ax", @progbits
        .globl \name
        .hidden \name
        .type \name, @function
\name:
        .endm

        function start, .text.header
        xorl %edi, %edi
        call init_core
        ud2
        .size start, . - start

/* A guest's registers: number in rax, arguments in rdi, rsi, rdx. */
        function hypercall_entry, .text.entry
        movq %rdx, %rcx
        movq %rsi, %rdx
        movq %rdi, %rsi
        movq %rax, %rdi
        call do_hypercall
        ret
        .size hypercall_entry, . - hypercall_entry

/* size_t copy_guest(void *dst, const void *src, size_t n): bytes left over. */
        function copy_guest, .text.copy_guest
        movq %rdx, %rcx
1:      rep movsb
2:      movq %rcx, %rax
        ret
        .size copy_guest, . - copy_guest

        .section .fixup, "ax", @progbits
3:      jmp 2b
        .section .ex_table, "a", @progbits
        .p2align 2
        .long 1b - ., 3b - .
        .section .note.GNU-stack, "", @progbits
