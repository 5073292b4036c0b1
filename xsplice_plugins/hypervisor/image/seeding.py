# SPDX-License-Identifier: Apache-2.0
"""An image with the memory of a host that runs it, in place of what the file holds.

What boot wrote is then known: data, what is sealed after boot, and every other page of Xen's, which
is fetched when code asks for it. Text stays as the model makes it.
"""

import dataclasses

from msgspec import structs

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE
from xsplice_plugins.hypervisor.image.image import BootedImage, HostPages, Region
from xsplice_plugins.hypervisor.image.memory import Perm


def seeded(image: BootedImage, pages: HostPages) -> BootedImage:
    """Give an image whose data are a host's.

    Args:
        image: as :func:`boot` makes it.
        pages: gives a page of the host's memory and how it is mapped; None where nothing is.

    Returns:
        The same image, with the host's bytes wherever boot may have written.
    """
    unsteady: set[int] = set()
    regions = tuple(_region(image, region, pages, unsteady) for region in image.regions)
    return dataclasses.replace(
        image, regions=regions, host_pages=pages, unsteady=frozenset(unsteady)
    )


def boot_written(image: BootedImage) -> tuple[tuple[int, int], ...]:
    """Give the image's memory that boot writes, [start, end): data and what is sealed after it."""
    ranges = [
        (region.addr_virt, region.addr_virt + len(region.data))
        for region in image.regions
        if Perm.WRITE in region.perm
    ]
    ends = [image.symbols.get(f"__ro_after_init_{end}") for end in ("start", "end")]
    if ends[0] is not None and ends[1] is not None:
        ranges.append((ends[0].addr_virt, ends[1].addr_virt))
    return tuple(ranges)


def _region(image: BootedImage, region: Region, pages: HostPages, unsteady: set[int]) -> Region:
    if region.perm is Perm.NONE:
        return region
    data = bytearray(region.data)
    for start, end in boot_written(image):
        low, high = max(start, region.addr_virt), min(end, region.addr_virt + len(data))
        for virt in range(low & -PAGE_SIZE, high, PAGE_SIZE):
            page = pages(virt)
            if page is None:
                continue
            first, last = max(low, virt), min(high, virt + PAGE_SIZE)
            offset = first - region.addr_virt
            data[offset : offset + last - first] = page.data[first - virt : last - virt]
            unsteady.update(virt + at for at in page.unsteady if first <= virt + at < last)
    return structs.replace(region, data=bytes(data))
