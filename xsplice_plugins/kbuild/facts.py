# SPDX-License-Identifier: Apache-2.0
"""Ask a built tree's own headers: what they define is compiled into a small object and read back.

The probe is compiled with the recorded command of ``common/livepatch.o``, so configuration,
machine and compiler are those of the image. Constants stand in a section of their own; what no
release names (the bytes of BUG(), the sizes of frames) is seen in what BUG and WARN leave behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tempfile
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.artefacts import ASKED, AlternativeFields, Facts, load, save, to_json
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.errors import CaptureError, ElfError, MachineError, XspliceError
from xsplice_plugins.kbuild.commands import edited, other_source, redirected, run
from xsplice_plugins.kbuild.records import Record, read_record
from xsplice_plugins.kbuild.tree import XenTree
from xsplice_plugins.target.known import known_facts

MODEL = "common/livepatch.o"  #: its record says how the probe is compiled

_ALTERNATIVE = {
    "size_bytes": "sizeof(struct alt_instr)",
    "site": "offsetof(struct alt_instr, orig_offset)",
    "replacement": "offsetof(struct alt_instr, repl_offset)",
    "feature": "offsetof(struct alt_instr, ALT_FEATURE)",
    "site_length": "offsetof(struct alt_instr, orig_len)",
    "replacement_length": "offsetof(struct alt_instr, repl_len)",
}
_CONSTANTS = {
    "record_version": "LIVEPATCH_PAYLOAD_VERSION",
    "record_size_bytes": "sizeof(struct livepatch_func)",
    "expect_length_max": "sizeof(((livepatch_expectation_t *)0)->data)",
    "saved_length_max": "LIVEPATCH_OPAQUE_SIZE",
    "name_size_bytes": "XEN_LIVEPATCH_NAME_SIZE",
    "symbol_length_max": "KSYM_NAME_LEN",
    "file_size_max": "LIVEPATCH_MAX_SIZE",
    "sysctl_version": "XEN_SYSCTL_INTERFACE_VERSION",
    "jump_size_bytes": "ARCH_PATCH_INSN_SIZE",
    "feature_words": "FEATURE_WORDS",
    "bug_displacement_bits": "DISPLACEMENT_BITS",
    "ex_entry_size_bytes": "EX_ENTRY_SIZE",
}
#: Two WARN in a row are as far apart as their instruction is long; Xen has the same one for BUG.
#: The number of the line is small, so that it adds nothing to a frame's displacement.
_PROBE = """\
#include <xen/types.h>
#include <xen/lib.h>
#include <xen/symbols.h>
#include <xen/livepatch.h>
#include <xen/alternative-call.h>
#include <public/sysctl.h>
#include <asm/alternative.h>
#include <asm/cpufeature.h>
#include <asm/livepatch.h>
#ifdef CONFIG_X86
#include <asm/uaccess.h>
#define ALT_FEATURE cpuid
#define FEATURE_WORDS NCAPINTS
#define DISPLACEMENT_BITS BUG_DISP_WIDTH
#define EX_ENTRY_SIZE sizeof(struct exception_table_entry)
#else
#define ALT_FEATURE cpufeature
#define FEATURE_WORDS 0
#define DISPLACEMENT_BITS 0
#define EX_ENTRY_SIZE 0
#endif
static const unsigned long long xsplice_facts[]
    __attribute__((__used__, __section__(".xsplice.facts"))) = {
%s
};
static void (*xsplice_call)(void) __attribute__((__used__));
static void __attribute__((__used__)) xsplice_probe(void)
{
#line 1 "probe"
    WARN(); WARN();
    assert_failed("xsplice");
}
static void __attribute__((__used__)) xsplice_calls(void)
{
    alternative_vcall(xsplice_call);
}
"""


class Kept(Struct, frozen=True, kw_only=True):
    """An answer as it is kept; accidents show, and a user's cache is believed to be theirs."""

    digest: str  #: SHA-256 of what decides the answer, and of the answer
    facts: Facts


class UnansweredError(CaptureError):
    """A tree's headers cannot be asked, or do not know what they are asked."""


def facts_of_tree(tree: XenTree, *, cache: Path | None = None) -> Facts:
    """Return what a tree's headers define, or, where it cannot be asked, the nearest list.

    Returns:
        The facts; their ``origin`` says which list was taken and why the tree was not asked.

    Raises:
        ConfigError: The tree cannot be asked and no list is known for its release and machine.
        CaptureError: The tree's records are damaged.
    """
    try:
        return ask_tree(tree, cache=cache)
    except UnansweredError as error:
        listed = known_facts(tree.release, tree.machine)
        reason = str(error).partition(";")[0]
        return replace(listed, origin=f"{listed.origin} ({reason})")


def ask_tree(tree: XenTree, *, cache: Path | None) -> Facts:
    """Return what a tree's own headers define.

    Args:
        tree: The built tree; it is only read.
        cache: Folder where the answer is kept, in a file named by a digest of what decides it:
            the build-id, the command, the compiler, the probe and the headers' content;
            ``None`` to keep none.

    Raises:
        UnansweredError: The tree has no recorded command (Xen before 4.16), the compiler is gone,
            or the headers lack what is asked for.
        CaptureError: The tree's records are damaged.

    Sources, in Xen's tree: those that the probe includes.
    """
    record = read_record(str(tree.build_root), MODEL)
    if record is None or not record.source.endswith(".c"):
        raise UnansweredError(
            f"{MODEL}: the build of Xen {tree.release} recorded no command of it; apply the series "
            "in xen-patches/xen-build and build again"
        )
    key = _key(tree, record) if cache is not None else ""
    kept = cache / f"facts-{key}.json" if cache is not None else None
    if kept is not None and kept.is_file():
        # Damaged, edited, or of another version: asked again below.
        with contextlib.suppress(XspliceError):
            answer = load(kept, Kept)
            if answer.digest == _digest(key, answer.facts):
                return answer.facts
    probe = _compiled(tree, record)
    try:
        facts = _answers(tree, probe)
    except (LookupError, ValueError, struct.error, ElfError) as error:
        raise _unanswered(tree, f"the probe's object lacks what was asked for ({error})") from error
    if kept is not None:
        with contextlib.suppress(MachineError):  # a home that cannot be written
            save(kept, Kept(digest=_digest(key, facts), facts=facts))
    return facts


def _digest(key: str, facts: Facts) -> str:
    return hashlib.sha256(key.encode() + to_json(facts)).hexdigest()


def _key(tree: XenTree, record: Record) -> str:
    folder = tree.build_root / record.folder
    compiler = record.command.split(" -", 1)[0]
    try:
        version = run(f"{compiler} --version", folder, env=None, subject=compiler)
    except (CaptureError, MachineError) as error:
        raise _unanswered(tree, str(error)) from error
    parts = [tree.build_id, tree.release, record.command, _probe_text()]
    key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape") + version)
    for path in sorted(record.inputs):
        file = folder / path
        content = file.read_bytes() if file.is_file() else b"missing"
        key.update(path.encode("utf-8", "surrogateescape"))
        key.update(hashlib.sha256(content).digest())
    return key.hexdigest()[:32]


def _probe_text() -> str:
    questions = [*_CONSTANTS.values(), *_ALTERNATIVE.values()]
    return _PROBE % "\n".join(f"    {question}," for question in questions)


def _compiled(tree: XenTree, record: Record) -> ElfFile:
    with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
        probe, made = Path(work) / "probe.c", Path(work) / "probe.o"
        probe.write_text(_probe_text())
        changes = redirected(record.command, record.output, made)
        changes |= other_source(record.command, record.source, probe)
        # Warnings are no matter here, and a probe in the compiler's own format has no sections.
        command = edited(record.command, changes, "-w -fno-lto")
        try:
            run(command, tree.build_root / record.folder, env=None, subject="probe.c")
            return read_elf(made.read_bytes(), "probe.o")
        except (CaptureError, MachineError, ElfError, OSError) as error:
            raise _unanswered(tree, str(error).partition("\n")[2] or str(error)) from error


def _unanswered(tree: XenTree, said: str) -> UnansweredError:
    return UnansweredError(
        f"{MODEL}: the headers of Xen {tree.release} do not answer through its command; look "
        f"whether it still compiles in {tree.build_root}:\n{said}"
    )


def _answers(tree: XenTree, probe: ElfFile) -> Facts:
    sizes = {section.name: section.size_bytes for section in probe.sections}
    count = len(_CONSTANTS)
    values = struct.unpack(
        f"<{count + len(_ALTERNATIVE)}Q", probe.section_by_name[".xsplice.facts"].data
    )
    constants = dict(zip(_CONSTANTS, values[:count], strict=True))
    alternative = dict(zip(_ALTERNATIVE, values[count:], strict=True))
    return Facts(
        origin=ASKED,
        release=tree.release,
        machine=probe.machine,
        alternative=AlternativeFields(**alternative),
        bug_frame_size_bytes=sizes[".bug_frames.1"] // 2,
        bug_message_frame_size_bytes=sizes[".bug_frames.3"],
        bug_instruction=_warn_instruction(probe).hex(),
        alt_call_entry_size_bytes=sizes.get(".alt_call_sites", 0),
        **constants,
    )


def _warn_instruction(probe: ElfFile) -> bytes:
    """Return the instruction between the places that the probe's two WARN frames name."""
    frames = probe.section_by_name[".bug_frames.1"]
    places = set()
    for reloc in probe.relocs(frames):
        symbol = probe.symbols[reloc.symbol]
        if probe.sections[symbol.shndx].is_exec:
            places.add((symbol.shndx, symbol.value + reloc.addend))
    (section, start), (_, end) = sorted(places)
    return probe.sections[section].data[start:end]
