"""Facts about an image, read from the engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ROCM = ("PYTORCH_ROCM_ARCH", "ROCM_PATH", "ROCM_VERSION", "HIP_PATH")
_CUDA = ("CUDA_VERSION", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA", "NV_CUDA_LIB_VERSION")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What the engine knows about an image.

    Attributes:
        asked: Name as the user wrote it.
        id: Image ID.
        repo_digests: Digests under which registries know it; empty for one built here.
        runs: Content address that is run: `repository@sha256:...`, or the ID.
        entrypoint: Words of the image's entrypoint.
        cmd: Words of the image's default command.
        env: Variables set in the image.
        labels: Labels of the image.
        user: User that the image runs as, empty for root.
        architecture: Such as `amd64`.
        size_bytes: Size of all layers.
    """

    asked: str
    id: str
    repo_digests: tuple[str, ...] = ()
    runs: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    architecture: str = ""
    size_bytes: int = 0

    @property
    def rivals(self) -> tuple[str, ...]:
        """All names by digest of what runs, where a tag was asked for and could mean each of them.

        Empty where it can only mean one. A repository may have one image by several digests, of an
        index and of its manifest, or of two pushes of the same layers; the engine does not keep
        which of them the tag had.
        """
        repository, at, _ = self.runs.partition("@")
        if not at or "@" in self.asked:
            return ()
        found = [each for each in self.repo_digests if each.partition("@")[0] == repository]
        return tuple(found) if len(set(found)) > 1 else ()

    @property
    def gfx(self) -> tuple[str, ...]:
        """Instruction sets that the image was compiled for; empty when it does not say."""
        names = re.split(r"[;, ]+", self.env.get("PYTORCH_ROCM_ARCH", ""))
        return tuple(name for name in names if name)

    @property
    def rocm(self) -> bool:
        """Whether the image says that it is built for ROCm."""
        return bool(self.gfx) or any(name in self.env for name in _ROCM)

    @property
    def cuda(self) -> bool:
        """Whether the image says that it is built for CUDA and not for ROCm."""
        return not self.rocm and any(name in self.env for name in _CUDA)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentImage:
    """An image that the engine does not have.

    Attributes:
        asked: Name as the user wrote it.
        near: Names that the engine does have and that are close to it.
        registry: What its registry says: `found`, `refused`, or empty when it was not asked or
            did not answer.
        answer: The registry's answer in its own words, for anything but `found`.
        digest: Digest under which the registry has it.
        platforms: Platforms that the registry has it for, such as `linux/amd64`.
    """

    asked: str
    near: tuple[str, ...] = ()
    registry: str = ""
    answer: str = ""
    digest: str = ""
    platforms: tuple[str, ...] = ()
