# SPDX-License-Identifier: Apache-2.0
"""Links, pipes and lines that are read otherwise than they look."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.unit.bases.test_keeping import steps_of
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import adding, store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.orders import rows_of
from xsplice_plugins.bases.sources import Kind, unpack
from xsplice_plugins.errors import ConfigError

pytestmark = pytest.mark.toolchain

GOOD = "CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n"


# Links


@pytest.mark.parametrize("name", [".config", "xen-syms"])
def test_what_a_link_leads_to_is_part_of_what_is_asked_for(
    own: Path, tmp_path: Path, name: str
) -> None:
    """It is copied, so another content is another base."""
    outer = tmp_path / "outer"
    outer.mkdir()
    own.rename(outer / "sources")
    file = tmp_path / "elsewhere"
    if name == ".config":
        (outer / "sources/xen/.config").rename(file)
    else:
        (outer / "sources/xen-syms").rename(file)
    (outer / name).symlink_to(file)
    order = Order(name="fleet", source=outer)
    record = add_base(order)
    assert record.likeness is Likeness.IDENTICAL
    assert steps_of(order) == (record, [])
    shutil.copy(file, tmp_path / "copy")
    (outer / name).unlink()
    (outer / name).symlink_to(tmp_path / "copy")
    assert steps_of(order) == (record, [])  # it is the same content
    with (tmp_path / "copy").open("ab") as opened:
        opened.write(b"# more\n")
    with pytest.raises(ConfigError, match="made of something else"):
        add_base(order)


def test_what_a_link_leads_to_may_not_change_while_it_is_read(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    own.rename(outer / "sources")
    config = (outer / "sources/xen/.config").rename(tmp_path / "config")
    (outer / ".config").symlink_to(config)

    def slow(source: Path, kind: Kind, into: Path, *, log: Path, ref: str = "") -> None:
        unpack(source, kind, into, log=log, ref=ref)
        config.write_text(config.read_text() + "CONFIG_MORE=y\n")

    monkeypatch.setattr(adding, "unpack", slow)
    with pytest.raises(ConfigError, match="changed while it was read"):
        add_base(Order(name="fleet", source=outer))


def test_the_key_of_a_folder_without_links_stays(own: Path) -> None:
    """Bases of earlier versions are known by it."""
    order = Order(name="fleet", source=own)
    before = rows_of(order)
    (own / "image").write_bytes((own / "xen-syms").read_bytes())
    assert rows_of(order) != before
    (own / "image").unlink()
    assert rows_of(order) == before


# Pipes


def archive_of(own: Path, place: Path, name: str, kind: bytes) -> Path:
    with tarfile.open(place, "w") as file:
        file.add(own, "xen-1", filter=lambda row: None if row.name.endswith(name) else row)
        row = tarfile.TarInfo(f"xen-1/{name}")
        row.type, row.mode = kind, 0o644
        file.addfile(row)
    return place


@pytest.mark.parametrize("name", ["xen/.config", "xen/common/extra.c"])
def test_a_pipe_among_the_sources_is_refused(own: Path, tmp_path: Path, name: str) -> None:
    """Whoever opens it waits for ever, and holds the lock."""
    config = tmp_path / "config"
    config.write_text(GOOD)
    source = archive_of(own, tmp_path / "xen.tar", name, tarfile.FIFOTYPE)
    with pytest.raises(ConfigError, match=rf"{name} is neither a file, a folder nor a link"):
        add_base(Order(name="fleet", source=source, config=str(config)))
    assert not (store.folder_of("fleet") / "tree").exists()


def test_a_folder_in_the_place_of_the_settings_is_refused(own: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(GOOD)
    source = archive_of(own, tmp_path / "xen.tar", "xen/.config", tarfile.DIRTYPE)
    with pytest.raises(ConfigError, match=r"xen/\.config is a folder"):
        add_base(Order(name="fleet", source=source, config=str(config)))


@pytest.mark.parametrize("option", ["config", "image", "boot", "pristine", "source"])
def test_a_pipe_that_is_named_is_refused_at_once(own: Path, tmp_path: Path, option: str) -> None:
    odd = tmp_path / "odd.tar"
    os.mkfifo(odd)
    given = {"config": str(odd), "pristine": (odd,)}.get(option, odd)
    words = {"source": own, option: given}
    said = "is a pipe, a socket or a device" if option != "source" else "neither file nor folder"
    with pytest.raises(ConfigError, match=said):
        add_base(Order(name="fleet", **words))  # type: ignore[arg-type]
    assert not store.bases_folder().exists()


# Lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (" CONFIG_NR_CPUS=7", r"line 3 begins with a blank, .*\(`CONFIG_NR_CPUS=7`\)"),
        ("\tCONFIG_NR_CPUS=7", r"line 3 begins with a blank"),
        ("  # CONFIG_DEBUG is not set", r"line 3 begins with a blank"),
        (" NR_CPUS=7", r"no configuration of Xen \(`NR_CPUS=7`\) in line 3"),
        ("\x0cCONFIG_NR_CPUS=7", r"line 3"),
        ("export CONFIG_NR_CPUS=7", r"no configuration of Xen .* in line 3"),
        ("CONFIG_NR_CPUS = 7", r"no configuration of Xen .* in line 3"),
    ],
)
def test_a_line_that_make_passes_over_is_refused(
    own: Path, tmp_path: Path, line: str, said: str
) -> None:
    """The base would be built without that setting."""
    config = tmp_path / "config"
    config.write_text(f"{GOOD}{line}\n")
    with pytest.raises(ConfigError, match=rf"--config {config}: {said}"):
        add_base(Order(name="fleet", source=own, config=str(config)))


def test_comments_and_empty_lines_are_taken(own: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"#\n# CONFIG_DEBUG is not set\n\n \t\n  # a word\n#word\r\n{GOOD}")
    order = Order(name="fleet", source=own, config=str(config))
    assert add_base(order).matched > 0
