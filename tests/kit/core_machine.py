# SPDX-License-Identifier: Apache-2.0
"""Run functions of the embedded core's image, as built, without booting it.

Independent of `xsplice_plugins` on purpose: what it sees is the oracle for the tests of the core
and of its regression hot-patches.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile
from unicorn import UC_ARCH_X86, UC_HOOK_INSN_INVALID, UC_HOOK_MEM_INVALID, UC_MODE_64, Uc, UcError
from unicorn.unicorn_const import UC_TLB_VIRTUAL
from unicorn.x86_const import (
    UC_X86_REG_RAX,
    UC_X86_REG_RCX,
    UC_X86_REG_RDI,
    UC_X86_REG_RDX,
    UC_X86_REG_RIP,
    UC_X86_REG_RSI,
    UC_X86_REG_RSP,
)

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
STACK_VIRT = 0xFFFF_8300_0000_0000
STACK_BYTES = 16 * PAGE
SCRATCH_VIRT = 0xFFFF_8300_1000_0000
SCRATCH_BYTES = PAGE
RETURN_VIRT = STACK_VIRT + STACK_BYTES - PAGE  # never executed: emulation stops there
INSTRUCTIONS_MAX = 100_000
ARGUMENTS = (UC_X86_REG_RDI, UC_X86_REG_RSI, UC_X86_REG_RDX, UC_X86_REG_RCX)


class UndefinedInstructionError(Exception):
    """The image executed ud2; the first argument is where."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The image's symbols, locals as ``file.c#name``."""

    addr_virt: dict[str, int]

    @classmethod
    def read(cls, image: Path) -> Symbols:
        """Read them with readelf, which lists them in the table's order: file, then its locals."""
        listed = subprocess.run(
            ["readelf", "-sW", image], check=True, capture_output=True, text=True
        ).stdout
        found: dict[str, int] = {}
        file_name = ""
        for line in listed.splitlines():
            words = line.split()
            if len(words) < 8 or not words[0].rstrip(":").isdigit():
                continue
            kind, binding, name = words[3], words[4], words[7]
            if kind == "FILE":
                file_name = name
            elif words[6] not in {"UND", "ABS"} and kind != "SECTION":
                decorated = f"{file_name}#{name}" if binding == "LOCAL" else name
                assert decorated not in found, f"two symbols are called {decorated}"
                found[decorated] = int(words[1], 16)
        return cls(found)


class Machine:
    """One image in memory with a stack and a page of scratch, nothing else."""

    def __init__(self, image: Path) -> None:
        self.symbols = Symbols.read(image)
        self.engine = Uc(UC_ARCH_X86, UC_MODE_64)
        self.engine.ctl_set_tlb_mode(UC_TLB_VIRTUAL)  # link addresses lie above 2^47
        self._resume: int | None = None
        with image.open("rb") as stream:
            for segment in ELFFile(stream).iter_segments():
                if segment["p_type"] == "PT_LOAD":
                    size = -(-segment["p_memsz"] // PAGE) * PAGE
                    self.engine.mem_map(segment["p_vaddr"], size)
                    self.engine.mem_write(segment["p_vaddr"], segment.data())
        self.engine.mem_map(STACK_VIRT, STACK_BYTES)
        self.engine.mem_map(SCRATCH_VIRT, SCRATCH_BYTES)
        self._faults: list[int] = []
        self._traps: list[int] = []
        self.engine.hook_add(UC_HOOK_MEM_INVALID, self._on_fault)
        self.engine.hook_add(UC_HOOK_INSN_INVALID, self._on_trap)

    def _on_fault(self, engine: Uc, *_access: object) -> bool:
        self._faults.append(engine.reg_read(UC_X86_REG_RIP))
        return False

    def _on_trap(self, engine: Uc, _data: object) -> bool:
        self._traps.append(engine.reg_read(UC_X86_REG_RIP))
        return False

    def addr(self, name: str) -> int:
        """Return a symbol's virtual address."""
        return self.symbols.addr_virt[name]

    def read_string(self, addr_virt: int) -> str:
        """Return the NUL-terminated text at a virtual address (at most a page of it)."""
        text = bytearray()
        while (
            len(text) < PAGE and (byte := self.engine.mem_read(addr_virt + len(text), 1)) != b"\0"
        ):
            text += byte
        return text.decode()

    def write_scratch(self, data: bytes) -> int:
        """Fill the scratch page, zeros behind; return its virtual address."""
        self.engine.mem_write(SCRATCH_VIRT, data.ljust(SCRATCH_BYTES, b"\0"))
        return SCRATCH_VIRT

    def call(self, function: str | int, *args: int | str) -> int:
        """Call a function; return all 64 bits of its result.

        A fault goes on where the image's own exception table says, as the trap handler would do.

        Args:
            function: Symbol or virtual address.
            args: Up to four integers, or symbols standing for their virtual address.

        Raises:
            UndefinedInstructionError: A ud2 was executed.
            UcError: A fault that no exception-table entry covers.
        """
        rip = self.addr(function) if isinstance(function, str) else function
        stack_top = STACK_VIRT + STACK_BYTES - 2 * PAGE - 8
        self.engine.mem_write(stack_top, RETURN_VIRT.to_bytes(8, "little"))
        self.engine.reg_write(UC_X86_REG_RSP, stack_top)
        for register, arg in zip(ARGUMENTS, args, strict=False):
            value = self.addr(arg) if isinstance(arg, str) else arg
            self.engine.reg_write(register, value & (2**64 - 1))
        while True:
            self._faults.clear()
            self._traps.clear()
            try:
                self.engine.emu_start(rip, RETURN_VIRT, count=INSTRUCTIONS_MAX)
                break
            except UcError:
                if self._traps:
                    raise UndefinedInstructionError(self._traps[0]) from None
                rip = self._continue_at()
                if not rip:
                    raise
        assert self.engine.reg_read(UC_X86_REG_RIP) == RETURN_VIRT, "the call did not return"
        return int(self.engine.reg_read(UC_X86_REG_RAX))

    def _continue_at(self) -> int:
        """Look the fault up in `.ex_table` (entries of two self-relative words)."""
        start, stop = self.addr("__start___ex_table"), self.addr("__stop___ex_table")
        for entry in range(start, stop, 8):
            data = bytes(self.engine.mem_read(entry, 8))
            addr = entry + int.from_bytes(data[:4], "little", signed=True)
            if addr in self._faults:
                return entry + 4 + int.from_bytes(data[4:], "little", signed=True)
        return 0


def probe(image: Path, function: str, args: list[int | str], kind: str) -> int | str:
    """Answer one entry of an ``expected.json``'s ``effect`` on a fresh machine.

    Args:
        image: ``xen-syms``.
        function: Decorated name.
        args: Integers, or names of symbols standing for their address.
        kind: "int" (the low 32 bits, signed) or "string" (what the result points at).
    """
    machine = Machine(image)
    result = machine.call(function, *args)
    if kind == "string":
        return machine.read_string(result)
    assert kind == "int", kind
    return int.from_bytes((result & 0xFFFF_FFFF).to_bytes(4, "little"), "little", signed=True)
