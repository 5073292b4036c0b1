# SPDX-License-Identifier: Apache-2.0
"""What a patch touches, as far as a file's name and its text before and after can tell."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from xsplice_plugins.artefacts import TouchedFile, TouchKind

# A comment, or something in which comment marks mean nothing.
_PIECE = re.compile(rb"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_PROSE = {".md", ".rst", ".txt", ".pod", ".pandoc", ".gitignore", ".gitattributes", ".dts"}
_PROSE_NAMES = {"COPYING", "README", "MAINTAINERS", "CREDITS", "NOTICE", ".gitignore",
                "CHANGELOG.md", ".gitattributes", ".gitarchive-info"}  # fmt: skip
_MAKEFILE = re.compile(r"(Makefile|Kconfig|Kbuild).*|.*\.mk")
_DEFINE = re.compile(rb"\s*(?:override\s+)?(define|endef)\b")
# Files that programs, not compilers, read during the build of Xen.
_GENERATED_INPUT = re.compile(
    r"include/xlat\.lst|include/hypercall-defs\.c|include/xen/compile\.h\.in|"
    r"include/public/arch-[^/]+/cpufeatureset\.h|arch/[^/]+/[^/]+/asm-offsets\.c|"
    r"xsm/flask/(policy/.*|.*\.(sh|awk)|flask-policy\.S)|tools/.*|scripts/.*"
)


def without_comments(text: bytes) -> bytes:
    """Return C text (or assembler for the C preprocessor) with only what a compiler sees.

    Comments become a space, runs of white space one space, empty lines nothing; a line that
    starts a preprocessor directive keeps its own line.
    """
    text = text.replace(b"\r\n", b"\n").replace(b"\\\n", b"")

    def replaced(match: re.Match[bytes]) -> bytes:
        piece = match[0]
        # White space inside a literal counts: keep it apart from the collapse below.
        return piece.replace(b" ", b"\0").replace(b"\t", b"\1") if piece[:1] in b"\"'" else b" "

    lines: list[bytes] = []
    for line in _PIECE.sub(replaced, text).split(b"\n"):
        words = b" ".join(line.split())
        if not words:
            continue
        if words.startswith(b"#") or not lines or lines[-1].startswith(b"#"):
            lines.append(words)
        else:
            lines[-1] += b" " + words
    return b"\n".join(lines)


def without_make_comments(text: bytes) -> bytes:
    """Return the text of a Makefile or of Kconfig without blank lines and lines of comment.

    A line that continues another one stays, whatever it looks like, and so does one of a
    ``define``, where it may go to the shell.
    """
    lines: list[bytes] = []
    depth, is_continued = 0, False
    for line in text.split(b"\n"):
        is_comment = line.startswith(b"#") and not line.endswith(b"\\")
        if depth or is_continued or (line.strip() and not is_comment):
            lines.append(line)
        if not is_continued and (word := _DEFINE.match(line)):
            depth = max(0, depth + (1 if word[1] == b"define" else -1))
        is_continued = line.endswith(b"\\")
    return b"\n".join(lines)


def classify(
    path: str, old: bytes | None, new: bytes | None, hypervisor_dir: str = "xen"
) -> TouchedFile | None:
    """Say what kind of file a patch set touches.

    Args:
        path: Relative to the source root.
        old: Content before, ``None`` if there was no such file.
        new: Content after, ``None`` if it is gone.
        hypervisor_dir: The hypervisor's folder below the root; "." for the root itself.

    Returns:
        The touched file; ``None`` if the set as a whole leaves it as it was.
    """
    if old == new:
        return None
    kind = _kind(path, hypervisor_dir)
    suffix = PurePosixPath(path).suffix
    # C files that something is generated from are preprocessed or compiled first; headers are
    # read by scripts (xen/tools/gen-cpuid.py), to which a comment is what they like.
    is_read = kind is TouchKind.GENERATED_INPUT and suffix not in {".c", ".S"}
    is_code = kind not in {TouchKind.OUTSIDE, TouchKind.BUILD, TouchKind.OTHER}
    if (
        is_code
        and not is_read
        and old is not None
        and new is not None
        and suffix in {".c", ".h", ".S"}
        and without_comments(old) == without_comments(new)
    ):
        kind = TouchKind.COMMENTS
    if (
        kind is TouchKind.BUILD
        and _MAKEFILE.fullmatch(PurePosixPath(path).name)
        and old is not None
        and new is not None
        and without_make_comments(old) == without_make_comments(new)
    ):
        kind = TouchKind.COMMENTS
    return TouchedFile(path=path, kind=kind, is_added=old is None, is_removed=new is None)


def _kind(path: str, hypervisor_dir: str) -> TouchKind:
    if hypervisor_dir not in {"", "."}:
        if path == "Config.mk" or (path.startswith("config/") and path.endswith(".mk")):
            return TouchKind.BUILD
        if path.startswith("tools/flask/policy/"):
            return TouchKind.GENERATED_INPUT
        if not path.startswith(hypervisor_dir + "/"):
            return TouchKind.OUTSIDE
        path = path.removeprefix(hypervisor_dir + "/")
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix
    if path.startswith("test/") or name in _PROSE_NAMES or suffix in _PROSE:
        return TouchKind.OUTSIDE  # in-tree test payloads are no part of the image
    if (
        name.startswith(("Makefile", "Kconfig", "Kbuild", "SConscript", "SConstruct"))
        or suffix == ".mk"
        or name.endswith("_defconfig")
    ):
        return TouchKind.BUILD
    if _GENERATED_INPUT.fullmatch(path):
        return TouchKind.GENERATED_INPUT
    if suffix == ".h":
        is_public = path.startswith("include/public/")
        return TouchKind.PUBLIC_HEADER if is_public else TouchKind.PRIVATE_HEADER
    return {".c": TouchKind.C, ".S": TouchKind.ASSEMBLER, ".s": TouchKind.ASSEMBLER}.get(
        suffix, TouchKind.OTHER
    )
