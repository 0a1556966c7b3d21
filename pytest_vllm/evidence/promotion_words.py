"""Command lines that promote an image by other people's tools, to the same effect."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pytest_vllm.adapters.http import is_loopback

if TYPE_CHECKING:
    from pytest_vllm.domain.repository import PinnedName, TaggedName


def commands(source: PinnedName, to: TaggedName) -> tuple[tuple[str, str], ...]:
    """Return tools and the command of each that gives an image the new tag.

    Args:
        source: The image that was accepted.
        to: What it is to be called.
    """
    if source.repository == to.repository:
        crane = ["crane", "tag", str(source), to.tag]
    else:
        crane = ["crane", "copy", str(source), str(to)]
    open_ends = [
        f"--{end}-tls-verify=false"
        for end, host in (("src", source.repository.host), ("dest", to.repository.host))
        if is_loopback(f"http://{host}")
    ]
    ends = [f"docker://{source}", f"docker://{to}"]
    skopeo = ["skopeo", "copy", "--all", "--preserve-digests", *open_ends, *ends]
    # A single image is else wrapped into an index of its own, which has another digest.
    docker = ["docker", "buildx", "imagetools", "create", "--prefer-index=false"]
    return (
        ("skopeo", shlex.join(skopeo)),
        ("crane", shlex.join(crane)),
        ("docker", shlex.join([*docker, "--tag", str(to), str(source)])),
    )


def script(source: PinnedName, to: TaggedName) -> str:
    """Return all commands as a text for a shell, which runs the first and no other."""
    (tool, first), *others = commands(source, to)
    return "\n".join(
        [
            f"# {tool} gives {source} the tag {to}, with the same digest:",
            first,
            *(f"# or: {line}" for _, line in others),
        ]
    )
