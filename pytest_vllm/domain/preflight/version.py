"""Which version of vLLM a launch is about, as far as names tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.quantization import LISTED_VERSION

if TYPE_CHECKING:
    from pytest_vllm.domain.facts import LaunchFacts

Version = tuple[int, int, int]

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_IN_TAG = re.compile(r"vllm[_-](?:[a-z]+[_-])?v?(\d+\.\d+(?:\.\d+)?)")
_LABEL = "org.opencontainers.image.version"


def server_version(facts: LaunchFacts) -> Version | None:
    """Return the version of vLLM, `None` when nothing says it."""
    image = facts.image
    for text in (
        facts.arguments.version if facts.arguments is not None else "",
        facts.model.server_version if facts.model is not None else "",
        _of_tag(facts),
        image.labels.get(_LABEL, "") if image is not None and "vllm" in image.asked else "",
    ):
        match = _VERSION.match(text.removeprefix("v"))
        if match:
            return int(match[1]), int(match[2]), int(match[3] or 0)
    return None


def known_to_be_listed(facts: LaunchFacts) -> Severity:
    """Return how grave a name is that our lists of vLLM's names do not have.

    A later version may know it; so only a version that is known to be no later makes it fatal.
    """
    version = server_version(facts)
    listed = version is not None and version[:2] <= LISTED_VERSION[:2]
    return Severity.FATAL if listed else Severity.WARNING


def _of_tag(facts: LaunchFacts) -> str:
    image = facts.target.image
    if image is None:
        return ""
    match = _IN_TAG.search(image.tag)
    if match:
        return match[1]
    official = image.repository.rpartition("/")[2].startswith("vllm")
    return image.tag if official and _VERSION.match(image.tag.removeprefix("v")) else ""
