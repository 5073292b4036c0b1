# SPDX-License-Identifier: Apache-2.0
"""One running Xen: everything that an upload, an action or a hook reads and changes."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.image.memory import Arena, Memory
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.requests import Host

#: Runs the hook of a kind at an address for a payload, and gives its result.
HookRunner = Callable[["Xen", LoadedPayload, str, int], int]


@dataclass(slots=True, eq=False)
class Xen:
    """A running hypervisor with its payloads."""

    image: BootedImage  #: the hypervisor as after boot
    release: Release  #: whose behaviour counts
    _: KW_ONLY
    hook_runner: HookRunner  #: how hooks are run
    host: Host = field(default_factory=Host)  #: the conditions around the hypervisor
    memory: Memory = field(init=False)  #: all that is mapped
    arena: Arena = field(init=False)  #: where payload memory is reserved
    payloads: list[LoadedPayload] = field(init=False, default_factory=list)  #: in upload order
    applied: list[LoadedPayload] = field(init=False, default_factory=list)  #: bottom first
    console: list[str] = field(init=False, default_factory=list)  #: what was printed, a line each
    #: what executes code, made at the first call
    engine: object | None = field(init=False, default=None)

    #: bytes of the image that hooks wrote, the same whatever boot has written
    told: set[int] = field(init=False, default_factory=set)
    #: bytes elsewhere that hooks filled with what boot has written, and the datum it came from
    unsure: dict[int, str] = field(init=False, default_factory=dict)
    #: bytes that hooks wrote by what a payload's own functions had changed, and the variable
    carried: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = self.image.new_memory()
        self.arena = Arena(start_virt=self.image.arena[0], end_virt=self.image.arena[1])

    def free(self, payload: LoadedPayload) -> None:
        """Give back whatever memory a payload holds, also one that was loaded in part."""
        mapped = set(map(id, self.memory.segments()))
        for segment in payload.segments:
            if id(segment) in mapped:
                self.memory.unmap(segment)
            for notes in (self.unsure, self.carried):
                for addr in [a for a in notes if segment.addr_virt <= a < segment.end_virt]:
                    del notes[addr]
        if payload.base_virt:
            self.arena.free(payload.base_virt)
