"""The image that a run accepted: its name in a registry, and whether that still means the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.refusal import AGAIN, Refusal
from pytest_vllm.domain.repository import ImageName, PinnedName, Repository, TaggedName
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryView:
    """What the registries say about an image, asked just now.

    Attributes:
        present: Whether the source repository has the digest that ran.
        tag: Name with a tag that the run was asked for, `None` when it was asked by digest only.
        tag_digest: What that tag names now, empty when it is gone.
    """

    present: bool
    tag: TaggedName | None = None
    tag_digest: str = ""


def accepted_image(record: RunRecord) -> PinnedName | Refusal:
    """Return the image that a run accepted as its registry knows it, or why there is none."""
    image = record.launch.get("image")
    facts = image if isinstance(image, dict) else {}
    runs = facts.get("runs")
    if record.backend != "docker":
        return Refusal(
            message=f"the run had its server from the backend {one_line(record.backend)}, so no "
            "image was accepted",
            cure="run the acceptance on the image itself, with --vllm-image=REPOSITORY@DIGEST",
        )
    if not isinstance(runs, str) or "@" not in runs:
        asked = one_line(str(facts.get("asked") or "the image"))
        return Refusal(
            message=f"the run knows {asked} by its image ID only, and a registry knows no image ID",
            cure=f"push the image first, then run the acceptance on the pushed name: docker push "
            f"{asked}",
        )
    try:
        return PinnedName.parse(runs, what="launch.image.runs")
    except TargetError as error:
        return Refusal(message=error.message, cure=AGAIN)


def asked_tag(record: RunRecord, image: PinnedName) -> TaggedName | Refusal | None:
    """Return the name with a tag that a run was asked for.

    Args:
        record: The run.
        image: What it accepted.

    Returns:
        The tag, which has to be looked up again; `None` when the run was asked by digest alone; a
        refusal when nobody can tell, or when the name does not lead to what the run accepted.
    """
    facts = record.launch.get("image")
    asked = facts.get("asked") if isinstance(facts, dict) else None
    shown = one_line(str(asked))
    try:
        name = ImageName.parse(asked if isinstance(asked, str) else "", what="launch.image.asked")
    except TargetError:
        return _other_name(
            f"the run was asked for {shown!r}, which is no name of an image, so nobody can tell "
            "whether it still means the same"
        )
    if name.repository not in (None, image.repository):
        return _other_name(
            f"the run was asked for {shown}, and accepted an image of {image.repository}"
        )
    if name.digest not in ("", image.digest):
        return _other_name(f"the run was asked for {shown}, and accepted {image.digest}")
    return name.tagged


def _other_name(message: str) -> Refusal:
    return Refusal(message=message, cure=AGAIN)


def other_image(record: RunRecord, wanted: ImageName) -> str:
    """Say in what a run is about another image than the one that is meant, empty for the same.

    Args:
        record: The run.
        wanted: A digest, where also a repository is named both; a name with a tag is what the run
            must have been asked for.
    """
    launch = record.launch.get("image")
    facts = launch if isinstance(launch, dict) else {}
    runs, asked = (str(facts.get(key) or "") for key in ("runs", "asked"))
    ran = f"{one_line(runs) or 'nothing'} ran, and {wanted} is meant"
    if wanted.digest and runs.rpartition("@")[2] != wanted.digest:
        return ran
    if wanted.tag:
        same = _read(asked, "launch.image.asked").tagged == wanted.tagged
        said = one_line(asked) or "nothing"
        return "" if same else f"the run was asked for {said}, and {wanted} is meant"
    if wanted.repository in (None, _read(runs, "launch.image.runs").repository):
        return ""
    return ran


def _read(text: str, what: str) -> ImageName:
    """Read what a record says, as no image at all where it is none."""
    try:
        return ImageName.parse(text, what=what)
    except TargetError:
        return ImageName()


def image_refusals(image: PinnedName, view: RegistryView) -> tuple[Refusal, ...]:
    """Say what the registry holds against the promotion of an image."""
    found: list[Refusal] = []
    if not view.present:
        found.append(
            Refusal(
                message=f"{image.repository} does not have {image.digest}, which the run accepted",
                cure=f"push that image, or run the acceptance on what {image.repository} has",
            )
        )
    if view.tag is not None and view.tag_digest != image.digest:
        names = f"names {view.tag_digest} now" if view.tag_digest else "is gone"
        found.append(
            Refusal(
                message=f"{view.tag}, which the run was asked for, {names}; the run accepted "
                f"{image.digest}",
                cure=f"run the acceptance on what {view.tag} names now, or, where the digest that "
                "ran is the one that is meant, run it by that digest alone: "
                f"--vllm-image={image}",
            )
        )
    return tuple(found)


def known_in(
    to: Repository, image: PinnedName, digests: Sequence[object]
) -> tuple[Repository, ...]:
    """List the repositories of a registry that may have an image.

    Args:
        to: Where it is to go; it may have the image already.
        image: The image.
        digests: `repo_digests` of the record.

    Returns:
        The one that the image goes to first: nothing has to be mounted there.
    """
    found = [to, image.repository]
    for text in digests:
        if isinstance(text, str) and text.endswith(f"@{image.digest}"):
            try:
                found.append(PinnedName.parse(text, what="repo_digests").repository)
            except TargetError:  # a name that no registry takes: only the engine knows it
                continue
    return tuple(dict.fromkeys(known for known in found if known.host == to.host))
