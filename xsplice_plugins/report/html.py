# SPDX-License-Identifier: Apache-2.0
"""A delta as one HTML page: every item with its reason, changed functions side by side.

The page is self-contained and the same for the same delta: no scripts, no outside files, no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from html import escape

from xsplice_plugins.artefacts import ChangedFunction, Delta
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.target.listing import Line, listing

_LINES_MAX = 4000  #: instructions of a function that are aligned; matching is quadratic at worst
_AROUND = 60  #: instructions shown before the first difference of a longer function
_CONTEXT = 8  #: equal instructions kept around each difference

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222; }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .15rem .6rem; vertical-align: top }
.code td { font: 13px/1.35 ui-monospace, monospace; white-space: pre-wrap; width: 50% }
.code .gone { background: #fde8e8 } .code .come { background: #e6f6e6 }
.code .skip td { color: #888; text-align: center; background: #f6f6f6 }
.note { color: #777 } .refused { color: #a00 } code, pre { background: #f4f4f4 }
pre { padding: .6rem; overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd }
code, pre, .code .skip td { background: #2a2a2a } .code .gone { background: #4a2424 }
.code .come { background: #1f3d1f } .refused { color: #f88 } }
"""


def delta_page(delta: Delta, baseline: bytes, new: bytes) -> str:
    """Return the page.

    Args:
        delta: The comparison's result.
        baseline: The object before the patch; empty if there was none.
        new: The object after it; empty if it was removed.
    """
    old_file = read_elf(baseline, "baseline") if baseline else None
    new_file = read_elf(new, "new") if new else None
    body = [f"<h1>{escape(delta.object_path)}</h1>", _overview(delta)]
    for refusal in delta.refused:
        body.append(f'<h2 class="refused">Refused: <code>{escape(refusal.name)}</code></h2>')
        body.append(
            f"<p>{escape(refusal.reason)} (<code>{escape(refusal.code)}</code>)</p>"
            f"<p>What to do: {escape(refusal.hint)}</p>"
        )
        if refusal.skeleton:
            body.append(f"<pre>{escape(refusal.skeleton)}</pre>")
    for changed in delta.changed:
        before = listing(old_file, changed.symbol_baseline) if old_file else ()
        after = listing(new_file, changed.symbol) if new_file else ()
        body.append(_function(changed, before, after))
        for piece in changed.pieces:
            body.append(f"<h3><code>{escape(piece)}</code></h3>")
            old_piece = listing(old_file, piece) if old_file else ()
            body.append(_code(old_piece, listing(new_file, piece) if new_file else ()))
    title = escape(delta.object_path)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _overview(delta: Delta) -> str:
    rows: list[tuple[str, str, str]] = [("changed", c.name, c.reason) for c in delta.changed]
    rows += [(f"new {n.kind}", n.name, n.reason) for n in delta.new]
    rows += [("removed", r.name, r.reason) for r in delta.removed]
    rows += [("line numbers only", r.name, r.reason) for r in delta.line_only]
    rows += [("boot only", r.name, r.reason) for r in delta.boot]
    rows += [("refused", r.name, r.reason) for r in delta.refused]
    rows += [("not checked", delta.object_path, text) for text in delta.unchecked]
    if not rows:
        return "<p>No functional change.</p>"
    cells = "\n".join(
        f"<tr><td>{escape(kind)}</td><td><code>{escape(name)}</code></td>"
        f"<td>{escape(reason)}</td></tr>"
        for kind, name, reason in rows
    )
    return f"<table><tr><th>what</th><th>name</th><th>why</th></tr>\n{cells}\n</table>"


def _function(changed: ChangedFunction, before: Sequence[Line], after: Sequence[Line]) -> str:
    lines = ""
    if changed.difference and (changed.difference.line_before or changed.difference.line_after):
        lines = f" ({changed.difference.line_before} | {changed.difference.line_after})"
    return (
        f"<h2><code>{escape(changed.name)}</code></h2>"
        f"<p>{escape(changed.reason)} <span class='note'>({escape(changed.cause.value)}; "
        f"{changed.size_before_bytes} bytes became {changed.size_after_bytes}"
        f"{escape(lines)})</span></p>" + _code(before, after)
    )


def _code(before: Sequence[Line], after: Sequence[Line]) -> str:
    rows = "\n".join(_rows(before, after))
    return f'<table class="code"><tr><th>before</th><th>after</th></tr>\n{rows}\n</table>'


def _rows(before: Sequence[Line], after: Sequence[Line]) -> Iterator[str]:
    skipped = 0
    if max(len(before), len(after)) > _LINES_MAX:
        pairs = zip(before, after, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if _key(a) != _key(b)), 0)
        skipped = max(0, first - _AROUND)
        before = before[skipped : skipped + _LINES_MAX // 8]
        after = after[skipped : skipped + _LINES_MAX // 8]
        yield _skip(f"{skipped} equal instructions; the window behind them is shown")
    matcher = SequenceMatcher(
        a=[_key(x) for x in before], b=[_key(x) for x in after], autojunk=False
    )
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        for tag, a0, a1, b0, b1 in group:
            for i in range(max(a1 - a0, b1 - b0)):
                left = before[a0 + i] if a0 + i < a1 else None
                right = after[b0 + i] if b0 + i < b1 else None
                gone, come = ("", "") if tag == "equal" else ("gone", "come")
                yield f"<tr>{_cell(left, gone)}{_cell(right, come)}</tr>"
        yield _skip("...")


def _key(line: Line) -> tuple[str, str]:
    # Targets of jumps move with every inserted instruction: only the mnemonic counts.
    text = line.text
    return (text.split()[0] if text[:1] == "j" and not line.note else text, line.note)


def _cell(line: Line | None, mark: str) -> str:
    if line is None:
        return "<td></td>"
    note = f' <span class="note"># {escape(line.note)}</span>' if line.note else ""
    kind = f' class="{mark}"' if mark else ""
    return f"<td{kind}>{line.offset:#6x}  {escape(line.text)}{note}</td>"


def _skip(text: str) -> str:
    return f'<tr class="skip"><td colspan="2">{escape(text)}</td></tr>'
