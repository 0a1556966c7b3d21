"""GPU device nodes of this host that a container may get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_vllm.domain.errors import TargetError

_AMD = "0x1002"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """Device nodes for a container.

    Attributes:
        devices: Absolute paths, `/dev/kfd` first; empty for none.
        gids: Numeric groups that own them.
        note: Which were not passed and why, empty when all were.
    """

    devices: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    note: str = ""


def choose_devices(
    gpus: str, *, dev: Path = Path("/dev"), sysfs: Path = Path("/sys")
) -> DeviceChoice:
    """Select device nodes.

    Args:
        gpus: `all`, `none` or indexes separated by commas, counted in the order of render nodes.
        dev: Where device nodes live.
        sysfs: Where the kernel describes them.

    Returns:
        `/dev/kfd` and one render node for each GPU, or none with a note where there are none.

    Raises:
        TargetError: An index names a GPU that this host does not have.
    """
    if gpus == "none":
        return DeviceChoice(note="none asked for (--vllm-gpus=none)")
    kfd = dev / "kfd"
    nodes = render_nodes(dev, sysfs) if kfd.exists() else []
    chosen = nodes if gpus == "all" else _pick(gpus, nodes, kfd)
    if not chosen:
        missing = kfd if not kfd.exists() else dev / "dri" / "renderD*"
        return DeviceChoice(note=f"no {missing} on this host")
    paths = [kfd, *chosen]
    left = len(nodes) - len(chosen)
    return DeviceChoice(
        devices=tuple(str(path) for path in paths),
        gids=tuple(sorted({path.stat().st_gid for path in paths})),
        note=f"{left} of {len(nodes)} GPUs not passed (--vllm-gpus={gpus})" if left else "",
    )


def visible_variables(
    gpus: str, *, dev: Path = Path("/dev"), sysfs: Path = Path("/sys")
) -> dict[str, str]:
    """Return the variables that show a process only some GPUs.

    Args:
        gpus: `all` or indexes; ROCr counts GPUs by itself, as a rule in the order of render nodes.
        dev: Where device nodes live.
        sysfs: Where the kernel describes them.

    Raises:
        TargetError: There is no such GPU, or `none` was asked for, which no variable ensures.
    """
    if gpus == "all":
        return {}
    if gpus == "none":
        raise TargetError(
            "--vllm-gpus=none: a process cannot be kept from the GPUs of its host",
            advice="use backend docker, which hands over no device, or drop --vllm-gpus",
        )
    choose_devices(gpus, dev=dev, sysfs=sysfs)
    return {"ROCR_VISIBLE_DEVICES": gpus}


def _pick(gpus: str, nodes: list[Path], kfd: Path) -> list[Path]:
    indexes = [int(index) for index in dict.fromkeys(gpus.split(","))]
    absent = [index for index in indexes if index >= len(nodes)]
    if absent:
        seen = f"{len(nodes)} AMD GPUs" if kfd.exists() else f"no {kfd}, so no AMD GPU"
        raise TargetError(
            f"--vllm-gpus={gpus}: there is no GPU {absent[0]}; this host has {seen}",
            advice="use all, none" + (f" or indexes below {len(nodes)}" if nodes else ""),
        )
    return [nodes[index] for index in indexes]


def render_nodes(dev: Path, sysfs: Path) -> list[Path]:
    """Return AMD's render nodes by number; a node whose vendor is not told counts as AMD's."""
    nodes = [path for path in (dev / "dri").glob("renderD*") if path.name[7:].isdigit()]
    nodes.sort(key=lambda path: int(path.name[7:]))
    return [path for path in nodes if _vendor(path, sysfs) in ("", _AMD)]


def _vendor(node: Path, sysfs: Path) -> str:
    try:
        text = (sysfs / "class" / "drm" / node.name / "device" / "vendor").read_text("ascii")
    except OSError:  # partitions of a GPU (amdgpu_xcp) have no such file
        return ""
    return text.strip().lower()
