"""Facts about an image, read from the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    architecture: str = ""
    size_bytes: int = 0
