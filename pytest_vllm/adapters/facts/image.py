"""Asks the engine for an image, and its registry about one that the engine does not have."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.backends.image import facts_of
from pytest_vllm.domain.facts.image import AbsentImage, ImageFacts
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from docker import DockerClient

    from pytest_vllm.domain.target import ImageRef

REGISTRY_S = 1.0
"""Seconds that a registry has for its answer; it is asked about the image, not for it."""
_NEAR = 3


def gather_image(
    client: DockerClient, image: ImageRef, *, registry_s: float = REGISTRY_S
) -> ImageFacts | AbsentImage:
    """Look an image up. Never pulls.

    Args:
        client: The engine.
        image: Name of the image.
        registry_s: Limit for the registry's answer, 0 to leave it alone.
    """
    from docker.errors import ImageNotFound, NotFound  # noqa: PLC0415 - loaded when used

    try:
        return facts_of(client.images.get(image.text).attrs, image)
    except (ImageNotFound, NotFound):
        pass
    tags = sorted({tag for known in client.images.list() for tag in known.tags})
    absent = AbsentImage(asked=image.text, near=_near(image, tags))
    if registry_s <= 0 or not image.repository:
        return absent
    return _ask_registry(client, absent, limit_s=registry_s)


def _ask_registry(client: DockerClient, absent: AbsentImage, *, limit_s: float) -> AbsentImage:
    """Have the engine ask the image's registry, through its own proxy, with our credentials."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - loaded when used
    from requests.exceptions import RequestException, Timeout  # noqa: PLC0415

    api: Any = client.api
    before, api.timeout = api.timeout, limit_s
    try:
        answer: dict[str, Any] = api.inspect_distribution(absent.asked)
    except APIError as error:
        return replace(absent, registry="error", answer=one_line(str(error.explanation or error)))
    except Timeout:
        return replace(absent, answer=f"no answer within {limit_s:g} s")
    except (DockerException, RequestException, OSError) as error:
        return replace(absent, answer=one_line(str(error)))
    finally:
        api.timeout = before
    platforms = [
        f"{platform.get('os')}/{platform.get('architecture')}"
        for platform in answer.get("Platforms") or ()
    ]
    digest = str((answer.get("Descriptor") or {}).get("digest") or "")
    return replace(absent, registry="found", digest=digest, platforms=tuple(platforms))


def _near(image: ImageRef, tags: list[str]) -> tuple[str, ...]:
    """Return tags that are close to the name, those of the same repository first."""
    same = [tag for tag in tags if tag.rpartition(":")[0] == image.repository]
    ordered = get_close_matches(image.text, same, n=_NEAR, cutoff=0.0)
    others = get_close_matches(image.text, tags, n=_NEAR, cutoff=0.5)
    return tuple(dict.fromkeys([*ordered, *others]))[:_NEAR]
