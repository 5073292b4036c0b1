# SPDX-License-Identifier: Apache-2.0
"""A base that is there stays whole, whatever ends a run, is damaged or comes in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kit.processes import SECONDS_MAX, number_in, wait_for_end
from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, Likeness, load
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.bases.orders import ORDER_FILE
from xsplice_plugins.cache import locked
from xsplice_plugins.cli import main
from xsplice_plugins.errors import ConfigError, MachineError, RefusedError, XspliceError
from xsplice_plugins.kbuild.tree import locate_tree

pytestmark = pytest.mark.toolchain

USER = "xen/common/user.c"
ADDING = """
import sys
from pathlib import Path
from xsplice_plugins.bases import adding
adding._PROGRAMS, adding._FILES = {}, {}
adding.add_base(adding.Order(name="fleet", source=Path(sys.argv[1])))
"""


def edit(source: Path, old: str, new: str, path: str = USER) -> None:
    text = (source / path).read_text()
    assert old in text
    (source / path).write_text(text.replace(old, new))


def steps_of(order: Order) -> tuple[BaseRecord, list[str]]:
    steps: list[str] = []
    record = add_base(order, progress=lambda step, _done, _total: steps.append(step))
    return record, list(dict.fromkeys(steps))


# Made again


def test_a_failing_build_leaves_the_old_base_as_it_was(own: Path) -> None:
    record = add_base(Order(name="fleet", source=own))
    edit(own, "twice(a)", "nothing(a")
    again = Order(name="fleet", source=own, is_replaced=True)
    with pytest.raises(ConfigError, match="make: ended with status 2"):
        add_base(again)
    assert check_base("fleet") == store.load_base("fleet") == record
    assert locate_tree(store.tree_of("base:fleet")).base == record
    assert store.known_bases() == ("fleet",)


def test_a_base_that_is_made_again_takes_the_place_of_the_old_one_at_the_end(own: Path) -> None:
    first = add_base(Order(name="fleet", source=own))
    seen = []
    for round_number in range(2):
        edit(own, "twice(a)", f"twice(a) + {round_number}")
        before = store.tree_of("base:fleet")
        order = Order(name="fleet", source=own, is_replaced=True)
        record = add_base(
            order, progress=lambda *_: seen.append(store.load_base("fleet").matched > 0)
        )
        assert record != first
        assert store.tree_of("base:fleet") != before
        assert not before.exists()
        assert check_base("fleet") == record
        assert steps_of(order) == (record, [])
    assert all(seen)
    assert [path.name for path in store.folder_of("fleet").iterdir() if path.is_dir()] == [
        "again-3"
    ]
    assert main(["base", "remove", "fleet"]) == 0
    assert list(store.bases_folder().iterdir()) == []


def test_a_replacement_that_failed_goes_on_where_it_stopped(own: Path) -> None:
    first = add_base(Order(name="fleet", source=own))
    good = (own / "xen/Makefile").read_text()
    edit(own, "xen: xen-syms\n", "xen:\n\tfalse\n", "xen/Makefile")
    again = Order(name="fleet", source=own, is_replaced=True)
    with pytest.raises(ConfigError, match="make: ended"):
        add_base(again)
    assert store.load_base("fleet") == first
    (store.places_of("fleet")[-1] / "tree/xen/Makefile").write_text(good)
    record, steps = steps_of(again)
    assert steps == ["build", "image"]
    assert record.key != first.key
    assert store.load_base("fleet") == record


# Ended


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_ends_an_add_ends_its_make_and_a_next_one_begins_afresh(
    number: signal.Signals, own: Path, cache: Path
) -> None:
    slow = "common/user.o: slow\nslow:\n\techo $$PPID >pid; sleep 100; :\n"
    (own / "xen/common/extra.mk").write_text(slow)
    tree = cache / "bases/fleet/tree"
    with subprocess.Popen([sys.executable, "-c", ADDING, own], stderr=subprocess.DEVNULL) as run:
        make = number_in(tree / "xen/pid")
        half = tree / "xen/common/version.o"
        run.send_signal(number)
        assert run.wait(SECONDS_MAX) != 0
    with locked(cache / "bases/fleet"):
        wait_for_end(make)  # it has let its files go, and is about to end
    with pytest.raises(ConfigError, match="has not ended"):
        store.load_base("fleet")
    # What a killed make left may be half: the next one does not take it.
    half.write_bytes(b"half")
    stamp = (own / "xen/common/extra.mk").stat()
    (own / "xen/common/extra.mk").write_text("#" * (len(slow) - 1) + "\n")
    os.utime(own / "xen/common/extra.mk", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    record, steps = steps_of(Order(name="fleet", source=own))
    assert steps == ["unpack", "configure", "build", "image"]
    assert record.likeness is Likeness.IDENTICAL


LOCKING = """
import os, subprocess, sys
from pathlib import Path
from xsplice_plugins.cache import locked
with locked(Path(sys.argv[1])) as lock:
    os.set_inheritable(lock, True)
    print(subprocess.Popen(["sleep", "100"], close_fds=False, stdout=2).pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("is_killed", [True, False])
def test_what_was_started_holds_the_lock_of_who_was_killed(is_killed: bool, tmp_path: Path) -> None:
    line = [sys.executable, "-c", LOCKING, tmp_path]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        if is_killed:
            run.kill()
    waited: list[bool] = []
    ended = threading.Timer(0.5, os.kill, (child, signal.SIGKILL))
    ended.start()
    with locked(tmp_path, waiting=lambda: waited.append(True)):
        assert waited == [True] * is_killed
    ended.join()


def test_an_add_that_waits_for_a_base_that_is_removed_makes_it(own: Path) -> None:
    add_base(Order(name="fleet", source=own))
    waits = threading.Event()
    made: list[object] = []

    def add() -> None:
        try:
            made.append(
                add_base(
                    Order(name="fleet", source=own),
                    progress=lambda step, *_: waits.set() if "waiting" in step else None,
                )
            )
        except BaseException as error:  # noqa: BLE001  it is what the test asks
            made.append(error)

    folder = store.folder_of("fleet")
    thread = threading.Thread(target=add)
    with locked(folder):
        thread.start()
        assert waits.wait(SECONDS_MAX)
        store.discard(folder)
    thread.join(SECONDS_MAX)
    assert made == [store.load_base("fleet")]
    assert check_base("fleet") == made[0]


def test_two_adds_of_one_name_make_it_once(own: Path) -> None:
    steps: list[str] = []
    made: list[object] = []

    def add(order: Order) -> None:
        try:
            made.append(add_base(order, progress=lambda step, *_: steps.append(step)))
        except ConfigError as error:
            made.append(str(error))

    orders = [Order(name="fleet", source=own), Order(name="fleet", source=own)]
    orders.append(Order(name="fleet", source=own, make=("A=1",)))
    threads = [threading.Thread(target=add, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert steps.count("configure") == 1
    assert len(made) == 3
    refused = [text for text in made if isinstance(text, str)]
    assert refused
    assert all("made of something else" in text for text in refused)
    assert check_base("fleet") in made


def test_what_an_ended_removal_has_left_is_swept(own: Path) -> None:
    record = add_base(Order(name="fleet", source=own))
    left = store.bases_folder() / ".gone-x"
    (left / "other/tree").mkdir(parents=True)
    (left / "other" / BASE_FILE).write_text("{}")
    assert store.known_bases() == ("fleet",)
    assert add_base(Order(name="fleet", source=own)) == record
    assert not left.exists()


def test_a_link_to_a_base_is_removed_and_what_it_leads_to_stays(own: Path, tmp_path: Path) -> None:
    add_base(Order(name="fleet", source=own))
    other = tmp_path / "other disk"
    store.folder_of("fleet").rename(other)
    store.folder_of("fleet").symlink_to(other)
    assert check_base("fleet").name == "fleet"
    store.remove_base("fleet")
    (store.bases_folder() / ".gone-x").symlink_to(other)
    store.sweep()
    assert list(store.bases_folder().iterdir()) == []
    assert (other / BASE_FILE).is_file()


def test_a_ready_base_without_its_tree_is_damaged(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fleet", "other"):
        add_base(Order(name=name, source=own))
    tree = store.folder_of("fleet") / "tree"
    assert (main(["base", "path", "fleet"]), capsys.readouterr().out) == (0, f"{tree}\n")
    shutil.rmtree(tree)
    assert main(["base", "path", "fleet"]) == 6
    said = capsys.readouterr()
    assert said.out == ""
    assert f"base fleet: is damaged: its tree is gone ({tree})" in said.err
    assert main(["base", "list"]) == 6
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["other"]
    assert "base fleet: is damaged: its tree is gone" in said.err
    with pytest.raises(MachineError, match="its tree is gone"):
        add_base(Order(name="fleet", source=own))
    add_base(Order(name="fleet", source=own, is_replaced=True))
    assert main(["base", "list"]) == 0
    assert main(["base", "remove", "fleet"]) == 0


def test_a_tree_that_is_gone_is_told_and_made_again(own: Path) -> None:
    edit(own, "xen: xen-syms\n", "xen:\n\tfalse\n", "xen/Makefile")
    with pytest.raises(ConfigError, match="make: ended"):
        add_base(Order(name="fleet", source=own))
    shutil.rmtree(store.folder_of("fleet") / "tree")
    with pytest.raises(ConfigError, match="make: ended"):
        add_base(Order(name="fleet", source=own))
    edit(own, "xen:\n\tfalse\n", "xen: xen-syms\n", "xen/Makefile")
    add_base(Order(name="fleet", source=own))
    shutil.rmtree(store.folder_of("fleet") / "tree")
    with pytest.raises(MachineError, match="its tree is gone"):
        check_base("fleet")


# Records


def test_each_field_of_a_record_is_checked(own: Path) -> None:
    add_base(Order(name="fleet", source=own, make=("A=1",), loader="xenserver"))
    path = store.folder_of("fleet") / BASE_FILE
    good = path.read_bytes()
    for field, value in json.loads(good).items():
        if field == "schema":
            continue
        other = [["A", "B"]] if field == "environment" else ["x"] if isinstance(value, list) else 7
        other = f"{value}x" if isinstance(value, str) else other
        fixed = {"likeness": "own", "boots": "not there", "has_files": not value}
        other = fixed.get(field, [] if value is None else other)
        path.write_text(json.dumps(json.loads(good) | {field: other}))
        with pytest.raises(RefusedError, match=rf"not any more what was added.*{field}"):
            check_base("fleet")
    path.write_bytes(good)
    assert check_base("fleet") == load(path, BaseRecord)


def test_what_lies_beside_a_record_is_checked(own: Path) -> None:
    add_base(Order(name="fleet", source=own))
    folder = store.folder_of("fleet")
    for file in ("key", "kept/xen-syms", f"tree/{USER}", "tree/xen/xen-syms"):
        data = (folder / file).read_bytes()
        stamp = (folder / file).stat()
        (folder / file).write_bytes(data[:-1] + b"x")
        with pytest.raises(RefusedError, match="not any more what was added"):
            check_base("fleet")
        (folder / file).write_bytes(data)
        os.utime(folder / file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    key = (folder / "key").read_bytes()
    (folder / "key").unlink()
    with pytest.raises(RefusedError, match=r"\(key changed\)"):
        check_base("fleet")
    (folder / "key").write_bytes(key)
    (folder / ORDER_FILE).unlink()
    with pytest.raises(ConfigError, match="give the same `base add` again"):
        check_base("fleet")
    add_base(Order(name="fleet", source=own))
    assert check_base("fleet").name == "fleet"


def test_what_was_refused_is_not_to_be_given_again_as_it_was(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = tmp_path / "boot"
    boot.write_bytes(b"text")
    with pytest.raises(ConfigError, match="no image that boots; give xen"):
        add_base(Order(name="fleet", source=own, boot=boot))
    assert main(["base", "list"]) == 0
    said = capsys.readouterr().err
    why = f"base fleet: its making has not ended (--boot {boot}: no image that boots); mend that"
    assert why in said
    assert "give the same" not in said
    add_base(Order(name="fleet", source=own))
    assert main(["base", "list"]) == 0
    assert "fleet" not in capsys.readouterr().err
    assert not list(store.folder_of("fleet").rglob(store.REFUSED_FILE))


def test_a_damaged_record_breaks_neither_the_list_nor_its_removal(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        add_base(Order(name=name, source=own))
    (store.folder_of("b") / BASE_FILE).write_text("{")
    (store.folder_of("c") / BASE_FILE).unlink()
    assert main(["base", "list"]) == 2
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["a"]
    assert "base b: its record is damaged" in said.err
    assert "xsplice base remove b" in said.err
    assert "base c: its making has not ended; give the same `xsplice base add` again" in said.err
    with pytest.raises(XspliceError, match="remove it with `xsplice base remove b`"):
        add_base(Order(name="b", source=own))
    assert add_base(Order(name="b", source=own, is_replaced=True)) == store.load_base("b")
    (store.ready_place("b") or own).joinpath(BASE_FILE).write_text("{")
    for path in store.folder_of("b").glob("**/key"):
        path.unlink()
    for name in ("b", "c"):
        assert main(["base", "remove", name]) == 0
    capsys.readouterr()
    assert main(["base", "list"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["base", "remove", "b"]) == 2
    assert "there is none" in capsys.readouterr().err


def test_json_is_taken_before_and_after_each_deed(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["add", "fleet", "--source", str(own)]
    for words in (add, ["list"], ["path", "fleet"], ["check", "fleet"], ["remove", "fleet"]):
        said = []
        for line in (["base", "--json", *words], ["base", *words, "--json"]):
            assert main(line) == 0
            said.append(json.loads(capsys.readouterr().out))
            if words[0] == "remove":
                add_base(Order(name="fleet", source=own))
        assert said[0] == said[1]
    assert main(["base", "path", "fleet"]) == 0
    assert capsys.readouterr().out == f"{store.tree_of('base:fleet')}\n"
