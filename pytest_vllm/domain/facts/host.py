"""Facts about the host that the server will run on."""

from __future__ import annotations

from dataclasses import dataclass, field


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
        vendor: `amd` or `nvidia`, empty when unknown.
        device_id: PCI device, such as `0x74a1`.
        uuid: As `ROCR_VISIBLE_DEVICES` takes it, empty when unknown.
        driver: Version of its driver, empty when unknown.
        compute_capability: Of NVIDIA's, such as `9.0`.
        hip_index: How HIP counts it when nothing is hidden, `None` when unknown.
        hip_total_bytes: Memory that the compute driver grants, `None` when unknown.
        partition: Modes of compute and memory, such as `SPX/NPS1`.
        socket: PCI address of its package.
        shared_with: Indexes of the partitions that draw on the same memory.
    """

    index: int
    name: str = ""
    gfx: str = ""
    bdf: str = ""
    render_node: str = ""
    gid: int | None = None
    vram_total_bytes: int | None = None
    vram_used_bytes: int | None = None
    vendor: str = ""
    device_id: str = ""
    uuid: str = ""
    driver: str = ""
    compute_capability: str = ""
    hip_index: int | None = None
    hip_total_bytes: int | None = None
    partition: str = ""
    socket: str = ""
    shared_with: tuple[int, ...] = ()


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
class DeviceNode:
    """A device node of a GPU driver.

    Attributes:
        path: Such as `/dev/kfd`.
        gid: Numeric group that owns it.
        group: Name of that group on this host, empty when it has none.
        mode: Permission bits, such as `0o660`.
        usable: Whether this user may read and write it.
    """

    path: str
    gid: int
    group: str = ""
    mode: int = 0
    usable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The host as the kernel shows it.

    Attributes:
        hostname: Name of the host.
        source: File that the facts came from, empty when this very host was looked at.
        system: Kernel and its release, such as `Linux 6.8.0-31-generic`.
        architecture: Machine as Docker names it, such as `amd64`.
        user: Numeric user that looked.
        container: What says that we run inside a container, empty for none.
        gpus: AMD GPUs, by PCI address.
        gpus_reason: Why there are none, empty when there are.
        gpus_by: Who told about them: `sysfs` or `amd` (AMD SMI).
        other_gpus: GPUs of NVIDIA, as NVML tells them.
        kfd: The compute device of the amdgpu driver, `None` when it is not there.
        render_nodes: AMD's render nodes, by number.
        topology: Instruction sets of the compute nodes, as the driver's topology lists them.
        other_accelerators: Device nodes of other vendors, such as `/dev/nvidia0`.
        holders: Processes that have a GPU open.
        variables: Variables of our environment that change what GPUs a process sees.
        numa_balancing: Whether the kernel moves memory between nodes; `None` when not told.
        shm_bytes: Size of `/dev/shm`, `None` when there is none.
        memory_bytes: Memory of the host, `None` when unknown.
        memory_free_bytes: Memory that a new process could get without swapping.
        swap_bytes: Size of the swap space.
        cache: The Hub's cache folder.
        cache_free_bytes: Space that this user has on its disk, `None` when unknown.
        port_problem: Why the server cannot have the port that the user named, empty when it can.
    """

    hostname: str = ""
    source: str = ""
    system: str = ""
    architecture: str = ""
    user: int = 0
    container: str = ""
    gpus: tuple[Gpu, ...] = ()
    gpus_reason: str = ""
    gpus_by: str = ""
    other_gpus: tuple[Gpu, ...] = ()
    kfd: DeviceNode | None = None
    render_nodes: tuple[DeviceNode, ...] = ()
    topology: tuple[str, ...] = ()
    other_accelerators: tuple[str, ...] = ()
    holders: tuple[Holder, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    numa_balancing: bool | None = None
    shm_bytes: int | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    swap_bytes: int | None = None
    cache: str = ""
    cache_free_bytes: int | None = None
    port_problem: str = ""

    @property
    def here(self) -> bool:
        """Whether the facts are those of the host that this process runs on."""
        return not self.source
