# SPDX-License-Identifier: Apache-2.0
"""What lies in the build folder and is not what was built there is built again.

SCons asks whether what a target is made of has changed, not whether the target has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xsplice_plugins import artefacts
from xsplice_plugins.errors import ConfigError, XspliceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Node = Any
Nodes = list[Any]


def heal(nodes: Nodes) -> None:
    """Have targets made again that were changed since they were made.

    Time and size tell, of a payload its content; a file that was only touched is left alone.
    """
    for node in nodes:
        path, known = Path(node.get_abspath()), node.get_stored_info().ninfo
        made, size = getattr(known, "timestamp", 0), getattr(known, "size", 0)
        if not made or not path.is_file():
            continue
        status = path.stat()
        is_same = (status.st_mtime, status.st_size) == (made, size)
        if is_same and ".livepatch" not in path.name:
            continue
        if node.get_content_hash() != getattr(known, "csig", ""):
            node.set_always_build()


def renew(nodes: Nodes, *, is_current: Callable[[], bool]) -> bool:
    """Have targets made again that were made of files which hold something else now.

    Args:
        nodes: The targets, the one that says what was read last.
        is_current: Whether those files are as they were; asked if that target is there.

    Returns:
        Whether they are made again.

    Raises:
        XspliceError: None; what cannot be read is made again.
    """
    if not Path(nodes[-1].get_abspath()).is_file():
        return False
    try:
        if is_current():
            return False
    except XspliceError:
        pass
    for node in nodes:
        node.set_always_build()
    return True


def renew_signature(nodes: Nodes, build_dir: Path | None) -> bool:
    """Have a payload signed again if the build folder's development key is not the one of before.

    Args:
        nodes: The signed payload and the record of its signature.
        build_dir: Where that key lies; without one no such key signs.

    Returns:
        Whether it is signed again.
    """

    def is_current() -> bool:
        record = artefacts.load(Path(nodes[-1].get_abspath()), artefacts.SignatureRecord)
        return build_dir is None or record.is_still_of(build_dir)

    return renew(nodes, is_current=is_current)


def require_whole(path: Path, digest: str, makers: Nodes) -> bytes:
    """Return the bytes of an object that a stage keeps beside its target.

    Args:
        path: The object.
        digest: Its sha256, as the stage has noted it.
        makers: The targets of the stages that keep it and speak of it.

    Raises:
        ConfigError: It is gone or damaged; the next run makes it again.
    """
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != digest:
        for node in _derived(makers):
            Path(node.get_abspath()).unlink(missing_ok=True)
        raise ConfigError(f"{path}: it is not what was compiled; run again to compile it anew")
    return data


def _derived(nodes: Iterable[Node]) -> Nodes:
    """Return nodes, and what they are made of if that is made as well."""
    both = [*nodes, *(source for node in nodes for source in node.sources)]
    return [node for node in both if hasattr(node.attributes, "xsplice")]
