"""Gives an image a tag: the same bytes, so that the digest stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import HostError, TargetError, VllmError

if TYPE_CHECKING:
    from pytest_vllm.adapters.registry.client import Registry
    from pytest_vllm.adapters.registry.manifest import Manifest
    from pytest_vllm.domain.repository import PinnedName, TaggedName

_DEEPEST = 4
"""Indexes of indexes are allowed; Docker makes none."""
_AGAIN = "promoting again writes nothing where the tag is that image already"


def place(registry: Registry, manifest: Manifest, *, source: PinnedName, to: TaggedName) -> None:
    """Give an image a new tag on its registry, and read it back.

    Into another repository its blobs are mounted, and no byte of a layer goes through here.

    Args:
        registry: The registry of both.
        manifest: What it has under the digest.
        source: Where it is.
        to: What it is to be called as well.

    Raises:
        HostError: The registry cannot be reached, has no time, lacks what the image consists of,
            or has something else under the new tag than was put there; or what it has there can
            not be seen.
        TargetError: It does not let us, or cannot share what one repository has with another.
    """
    path = to.repository.path
    if path != source.repository.path and registry.manifest(path, manifest.digest) is None:
        _carry(registry, manifest, source=source.repository.path, path=path, depth=0)
    written = _put_and_read(registry, manifest, to)
    if written is None or written.data != manifest.data:
        raise HostError(
            f"{to} names {written.digest if written else 'nothing'} after {manifest.digest} was "
            "written there",
            advice="somebody else may have written the same tag; look who, and promote again",
        )


def _put_and_read(registry: Registry, manifest: Manifest, to: TaggedName) -> Manifest | None:
    """Write a tag and return what it names then; an error says what is known of the tag."""
    path = to.repository.path
    try:
        registry.put(path, to.tag, manifest)
    except HostError as error:
        raise HostError(
            f"whether {to} was written is not known: {error.message}",
            advice=f"{error.advice}; {_AGAIN}",
        ) from None
    try:
        return registry.manifest(path, to.tag)
    except VllmError as error:
        raise HostError(
            f"{to} was written and cannot be read back: {error.message}",
            advice=f"{error.advice}; {_AGAIN}",
        ) from None


def _carry(registry: Registry, manifest: Manifest, *, source: str, path: str, depth: int) -> None:
    """Have another repository know all that a manifest refers to."""
    if depth > _DEEPEST:
        raise HostError(
            f"the index {manifest.digest} holds indexes more than {_DEEPEST} deep",
            advice="push the image again with docker buildx",
        )
    for digest in manifest.children():
        child = registry.manifest(source, digest)
        if child is None:
            raise HostError(
                f"{registry.host}/{source} does not have {digest}, which the index "
                f"{manifest.digest} lists",
                advice="promote inside of the repository, or push all platforms of the image",
            )
        _carry(registry, child, source=source, path=path, depth=depth + 1)
        registry.put(path, digest, child)
    for digest in manifest.blobs():
        if not registry.mount(path, digest, source=source):
            raise TargetError(
                f"{registry.host} does not share {digest} of {source} with {path}",
                advice="copy the image with what --print prints, then promote again",
            )
