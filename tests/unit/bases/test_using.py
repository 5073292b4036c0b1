# SPDX-License-Identifier: Apache-2.0
"""A base that a run uses is not taken away, and a run does not begin with one that goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.bases.test_keeping import SECONDS_MAX, edit
from xsplice_plugins.artefacts import BASE_FILE
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cache import held, holders_of
from xsplice_plugins.cli import main
from xsplice_plugins.errors import ConfigError

pytestmark = pytest.mark.toolchain

USING = """
import sys
from xsplice_plugins.bases.store import used
with used(sys.argv[1]) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def run_using(xen: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a run that uses a base until its input ends."""
    line = [sys.executable, "-c", USING, str(xen)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().strip()
        yield run


@pytest.mark.parametrize("below", ["", ".", "xen", "xen/xen-syms"])
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_removal_waits_for_who_uses_the_base_and_names_it(
    own: Path, below: str, is_killed: bool
) -> None:
    add_base(Order(name="fleet", source=own))
    tree = store.tree_of("base:fleet")
    said: list[str] = []
    with run_using(tree / below if below else "base:fleet") as run:

        def end(who: str) -> None:
            said.append(who)
            assert check_base("fleet") == store.load_base("fleet"), "another run may use it too"
            run.kill() if is_killed else run.communicate()

        store.remove_base("fleet", waiting=end)
        assert said == [f"process {run.pid}"]
    assert not tree.exists()


def test_a_removal_does_not_wait_for_who_uses_something_else(own: Path, tmp_path: Path) -> None:
    for name in ("fleet", "other"):
        add_base(Order(name=name, source=own))
    said: list[str] = []
    copied = shutil.copytree(store.tree_of("base:fleet"), tmp_path / "copy")
    with run_using("base:other"), run_using(copied), run_using(own):
        store.remove_base("fleet", waiting=said.append)
    assert said == []
    assert store.known_bases() == ("other",)


def test_the_command_says_for_whom_it_waits(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_base(Order(name="fleet", source=own))
    with run_using("base:fleet") as run:
        threading.Timer(0.3, run.kill).start()
        assert main(["base", "remove", "fleet"]) == 0
    words = f"base fleet: process {run.pid} uses it; waiting for its end ...\n"
    assert capsys.readouterr().err == words


def test_what_is_made_again_leaves_the_earlier_one_to_who_uses_it(own: Path) -> None:
    """And the next `base add` takes that away, or keeps it if it is used still."""
    add_base(Order(name="fleet", source=own))
    order = Order(name="fleet", source=own, is_replaced=True)
    steps: list[str] = []
    trees = [store.tree_of("base:fleet")]
    with contextlib.ExitStack() as stack:
        runs = []
        for round_number in range(2):
            runs.append(stack.enter_context(run_using("base:fleet")))
            edit(own, "twice(a)", f"twice(a) + {round_number}")
            add_base(order, progress=lambda step, *_: steps.append(step))
            trees.append(store.tree_of("base:fleet"))
            assert f"what was made before stays, for process {runs[-1].pid} uses it" in steps
        assert len(set(trees)) == 3
        assert all((tree / "xen/xen-syms").is_file() for tree in trees)
        runs[0].communicate()
        record = add_base(order)
        assert [tree.exists() for tree in trees] == [False, True, True]
    steps.clear()
    assert add_base(order, progress=lambda step, *_: steps.append(step)) == record
    assert steps == []
    assert [tree.exists() for tree in trees] == [False, False, True]
    assert check_base("fleet") == record


@pytest.mark.parametrize("is_made_again", [True, False])
def test_a_run_that_comes_while_a_base_goes_takes_the_next_or_says_that_there_is_none(
    own: Path, is_made_again: bool
) -> None:
    add_base(Order(name="fleet", source=own))
    record = store.folder_of("fleet") / BASE_FILE
    found: list[object] = []

    def use() -> None:
        try:
            with store.used("base:fleet", waiting=found.append) as path:
                found.append(path.parent.name)
        except ConfigError as error:
            found.append(str(error))

    run = threading.Thread(target=use)
    with held(record) as is_held:
        assert is_held
        run.start()
        deadline = time.monotonic() + SECONDS_MAX
        while not found:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if is_made_again:
            again = store.next_place("fleet")
            shutil.copytree(store.folder_of("fleet"), again)
        for path in (record, record.parent / "key"):
            path.unlink()
    run.join(SECONDS_MAX)
    last = "again-2" if is_made_again else "base fleet: there is none; known: none; make it with "
    assert found[0] == f"process {os.getpid()}"
    assert str(found[1]).startswith(last)


@pytest.mark.parametrize(
    ("words", "is_used"),
    [
        (["verify", "none.livepatch", "--xen-syms", "{tree}/xen/xen-syms"], True),
        (["list", "--xen-syms", "{tree}/xen/xen-syms", "--state", "{tmp}"], True),
        (["build", "none.c", "--out", "{tmp}/x", "--name", "x", "--xen", "base:fleet"], True),
        (["patch", "none.patch", "--out", "{tmp}", "--xen", "{tree}"], True),
        (["base", "check", "fleet"], True),
        (["base", "list"], False),
        (["base", "path", "fleet"], False),
        (["verify", "none.livepatch", "--xen-syms", "none"], False),
    ],
)
def test_every_command_that_reads_a_base_holds_it(
    own: Path, tmp_path: Path, words: list[str], is_used: bool
) -> None:
    """Each waits where somebody takes the base away."""
    add_base(Order(name="fleet", source=own))
    record = store.folder_of("fleet") / BASE_FILE
    words = [word.format(tree=store.tree_of("base:fleet"), tmp=tmp_path) for word in words]
    line = [sys.executable, "-m", "xsplice_plugins", *words]
    text = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with held(record), subprocess.Popen(line, **text) as run:  # type: ignore[call-overload]
        deadline = time.monotonic() + SECONDS_MAX
        while not (waits := waits_for(record, run.pid)) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert waits is is_used
        run.kill()


def waits_for(file: Path, pid: int) -> bool:
    """Tell whether a process waits for a file's lock."""
    rows = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    inode = f":{file.stat().st_ino}"
    return any(row[1] == "->" and int(row[5]) == pid and row[6].endswith(inode) for row in rows)


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77
touch "$1/x" && exit 1
exec "$2" -c "$3" base:fleet </dev/null
"""


def test_a_cache_that_nobody_may_write_is_used(own: Path, cache: Path) -> None:
    add_base(Order(name="fleet", source=own))
    line = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", cache, sys.executable, USING]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no folder may be mounted here: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, f"{cache}/bases/fleet/tree\n"), done.stderr


def test_who_holds_a_lock_is_told_as_far_as_the_kernel_tells(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    for path in (file, other):
        path.touch()
    with held(file, is_shared=True), held(other):
        assert holders_of(file) == f"process {os.getpid()}"
    assert holders_of(file) == "another process"
    with held(tmp_path / "none") as is_held:
        assert not is_held
