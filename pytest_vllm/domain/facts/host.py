"""Facts about the host that the server will run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU (a die of an MI250 counts as one).

    Attributes:
        index: Position by PCI address.
        name: Product name, empty when unknown.
        gfx: Instruction set such as `gfx942`, empty when unknown.
        bdf: PCI address.
        render_node: Path such as `/dev/dri/renderD128`, empty when unknown.
        gid: Numeric group of the render node, `None` when unknown.
        vram_total_bytes: Memory, `None` when unknown.
        vram_used_bytes: Memory in use, `None` when unknown.
    """

    index: int
    name: str = ""
    gfx: str = ""
    bdf: str = ""
    render_node: str = ""
    gid: int | None = None
    vram_total_bytes: int | None = None
    vram_used_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that has a GPU device open.

    Attributes:
        pid: Process ID on this host.
        name: Its name.
        devices: Device nodes that it holds.
        vram_bytes: Memory that it uses, `None` when unknown.
    """

    pid: int
    name: str
    devices: tuple[str, ...] = ()
    vram_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The host as the kernel shows it.

    Attributes:
        hostname: Name of the host.
        gpus: AMD GPUs, by PCI address.
        gpus_reason: Why there are none, empty when there are.
        holders: Processes that have a GPU open.
        variables: Variables of our environment that change what GPUs a process sees.
    """

    hostname: str = ""
    gpus: tuple[Gpu, ...] = ()
    gpus_reason: str = ""
    holders: tuple[Holder, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
