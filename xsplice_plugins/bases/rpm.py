# SPDX-License-Identifier: Apache-2.0
"""An RPM source package, prepared in a folder of its own, whatever the user's settings of rpm say.

``rpmbuild`` takes its folders from macros, which ``~/.rpmmacros`` sets as its user likes, and
deletes what lies in their way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.system.git import without_git
from xsplice_plugins.system.process import run_logged

if TYPE_CHECKING:
    from pathlib import Path

#: Macros of rpm that name a folder which ``rpmbuild`` writes in, and that folder below our own.
#: Source: macros.in of rpm (4.14 to 4.20).
_FOLDERS = {
    "_topdir": "",
    "_builddir": "BUILD",
    "_buildrootdir": "BUILDROOT",
    "_rpmdir": "RPMS",
    "_sourcedir": "SOURCES",
    "_specdir": "SPECS",
    "_srcrpmdir": "SRPMS",
    "_tmppath": "tmp",
    "_dbpath": "db",
}
_USERS = "XDG_"  #: begins variables that lead a program to settings of the user's own


def prepare_rpm(source: Path, place: Path, *, log: Path) -> None:
    """Unpack an RPM source package, and apply its patches, as its spec file says.

    What runs has a home folder of its own, so no settings of the user's count.

    Args:
        source: The ``.src.rpm``.
        place: Where to; it is there.
        log: Where the program's words go.

    Raises:
        ConfigError: It cannot be prepared.
        MachineError: A program is missing.
    """
    top, home = place / "rpm", place / "home"
    home.mkdir()
    words = []
    for name, below in _FOLDERS.items():
        folder = top / below
        folder.mkdir(parents=True, exist_ok=True)
        words += ["--define", f"{name} {folder}"]
    known = without_git().items()
    environ = {name: value for name, value in known if not name.startswith(_USERS)}
    environ |= {"HOME": str(home), "TMPDIR": str(top / "tmp")}
    run_logged(["rpmbuild", "--nodeps", *words, "-rp", str(source)], log=log, environ=environ)
