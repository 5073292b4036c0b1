# SPDX-License-Identifier: Apache-2.0
"""What a patch touches, as far as a file's name and its text before and after can tell."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from xsplice_plugins.artefacts import TouchedFile, TouchKind

# A comment, or something in which comment marks mean nothing. What opens no literal that ends on
# its line takes the rest of it, as the preprocessor has it: `don't` behind the assembler's `#`.
_PIECE = re.compile(
    rb"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*(?:"|(?P<open>\\?$))"""
    rb"""|'(?:\\.|[^'\\\n])*(?:'|\\?$)""",
    re.DOTALL | re.MULTILINE,
)
# Where one cannot tell what a compiler takes for a comment or a line: a backslash and blanks at
# the end of a line, trigraphs, digraphs, raw strings, a lone carriage return, `#include <a//b>`;
# and a text that goes on behind its line, which the assembler lets it do.
_ODD = re.compile(
    rb"""\\[ \t\f\v]+$|\?\?[/=]|%:|\b(?:u8?|U|L)?R"|\r|\0|\#[^\n]*include[^\n]*<[^>\n]*/[/*]""",
    re.MULTILINE,
)
_BLANK = re.compile(rb"\s")
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

    Comments become a space, runs of white space one space, empty lines nothing. A line that is
    left stays one: it ends a directive, and in assembler a statement or a comment that begins with
    ``#`` or ``@``, which stays as well. A header may be read by both.

    Args:
        text: The content of a ``.c``, ``.h`` or ``.S`` file.

    Returns:
        Lines; the text as it is where one cannot tell what is a comment.
    """
    spliced = text.replace(b"\r\n", b"\n").replace(b"\\\n", b"")
    is_open = any(piece["open"] is not None for piece in _PIECE.finditer(spliced))
    if is_open or _ODD.search(spliced):
        return text

    def replaced(match: re.Match[bytes]) -> bytes:
        # White space inside a literal counts: keep it apart from the collapse below.
        piece = match[0]
        return b" " if piece[:1] == b"/" else _BLANK.sub(lambda m: b"\0%d\0" % m[0][0], piece)

    rows = (b" ".join(line.split()) for line in _PIECE.sub(replaced, spliced).split(b"\n"))
    return b"\n".join(filter(None, rows))


def without_make_comments(text: bytes, *, is_kconfig: bool = False) -> bytes:
    """Return the text of a Makefile or of Kconfig without blank lines and lines of comment.

    A line that continues another one stays, whatever it looks like, and so does one of a
    ``define``, where it may go to the shell. A tab alone is a recipe that does nothing.

    Args:
        text: The content.
        is_kconfig: Whether it is Kconfig, where a comment ends a text of help: its words do not
            matter, but that there is one does.

    Returns:
        Lines.
    """
    lines: list[bytes] = []
    depth, is_continued = 0, False
    for line in text.split(b"\n"):
        is_comment = line.startswith(b"#") and not line.endswith(b"\\")
        is_blank = not (line.strip() or line.startswith(b"\t"))
        if depth or is_continued or not (is_blank or is_comment):
            lines.append(line)
        elif is_comment and is_kconfig and lines[-1:] != [b"#"]:
            lines.append(b"#")
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
    name = PurePosixPath(path).name
    if (
        kind is TouchKind.BUILD
        and _MAKEFILE.fullmatch(name)
        and old is not None
        and new is not None
    ):
        is_kconfig = name.startswith("Kconfig")
        old, new = (without_make_comments(text, is_kconfig=is_kconfig) for text in (old, new))
        kind = TouchKind.COMMENTS if old == new else kind
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
