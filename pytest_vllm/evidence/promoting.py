"""`pytest-vllm promote`: gives the image that a run accepted its new tag, and nothing else."""

from __future__ import annotations

import datetime as dt
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_vllm.adapters.registry.client import registry_name
from pytest_vllm.adapters.registry.placing import place
from pytest_vllm.adapters.registry.several import Registries
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.promoted_image import (
    RegistryView,
    accepted_image,
    asked_tag,
    image_refusals,
    known_in,
    other_image,
)
from pytest_vllm.domain.promotion import evidence_refusals
from pytest_vllm.domain.refusal import AGAIN, LONGEST, Refusal
from pytest_vllm.domain.repository import PinnedName
from pytest_vllm.domain.statement import absence
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.promotion_request import read_request
from pytest_vllm.evidence.promotion_words import script
from pytest_vllm.evidence.verifying import SIGNATURE, points
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.materials import installed_suites
from pytest_vllm.plugin.options import SUITES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.registry.manifest import Manifest
    from pytest_vllm.domain.checks import Check
    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.evidence.promotion_request import Request

_REFUSED = 1
_UNFIT = (
    "take the evidence from where it was made (pytest-vllm verify RUN shows all of it), or run the "
    "acceptance again"
)
_UNSIGNED = "sign it where it was made: pytest-vllm sign RUN --key KEY.pem; or "
_THERE = (
    "is that image already; nothing was changed; if an earlier promotion wrote it, the output of "
    "that one says what it was before"
)
_OTHER = "name the run of that image; pytest-vllm runs list shows what each one accepted"


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    asked = read_request(words)
    with Registries(writes=None if asked.only_print else asked.to.repository) as registries:
        return _promote(asked, registries, now=dt.datetime.now(dt.UTC))


def _promote(asked: Request, registries: Registries, *, now: dt.datetime) -> int:
    record = asked.run.record
    signed, unproven = _proof(asked)
    checks, suites = _installed(record)
    refusals = [
        *evidence_refusals(record, now=now, max_age=asked.max_age, catalogue=checks, suites=suites),
        *unproven,
    ]
    image = accepted_image(record)
    if isinstance(image, Refusal):
        return _refuse([*refusals, image], asked)
    if missing := absence(record):
        # Whatever else the rules above may let through: without a statement nothing is proven.
        message = f"there can be no statement about the run: {missing}"
        refusals = refusals or [Refusal(message=message, cure=AGAIN)]
    if asked.image is not None and (other := other_image(record, asked.image)):
        refusals.append(Refusal(message=f"--image: {other}", cure=_OTHER))
    tag = asked_tag(record, image)
    if isinstance(tag, Refusal):
        return _refuse([*refusals, tag], asked)
    try:
        manifest = registries.find(image)
        tag_digest = registries.digest(tag) if tag is not None else ""
    except VllmError as error:
        if not refusals:
            raise
        return _refuse(refusals, asked, unseen=error)
    view = RegistryView(present=manifest is not None, tag=tag, tag_digest=tag_digest)
    refusals += image_refusals(image, view)
    if refusals or manifest is None:
        return _refuse(refusals, asked)
    if asked.only_print:
        return _print(asked, registries, image, signed=signed)
    return _go_on(asked, registries, image, manifest, signed=signed)


def _go_on(
    asked: Request, registries: Registries, image: PinnedName, manifest: Manifest, *, signed: str
) -> int:
    """Do what nothing speaks against."""
    to = asked.to
    before = registries.digest(to)
    there = before == image.digest
    if not there:
        source = _source(image, asked, registries)
        back = f"; crane tag {to.repository}@{before} {to.tag} puts it back" if before else ""
        # Ahead of the write, so that it is known whatever becomes of that.
        _show("before", f"{to} was {before or 'nothing'}{back}")
        place(registries.of(to.repository), manifest, source=source, to=to)
    _show("accepted", f"{image}")
    _show("by", _evidence(asked.run.record, signed))
    if there:
        _show("there", f"{to} {_THERE}")
    else:
        _show("promoted", f"{to} is {image.digest} now")
    return 0


def _print(asked: Request, registries: Registries, image: PinnedName, *, signed: str) -> int:
    """Show how other tools do it, as text that can go to a shell: all but one command is comments.

    It needs no look at the new tag: some registries show a repository that is not there yet only
    to who may write it.
    """
    to = asked.to
    try:
        before = registries.digest(to)
        now = f"{to} is {before or 'nothing'} now"
    except VllmError as error:
        before, now = "", f"not known: {error.message}"
    _show("# accepted", f"{image}")
    _show("# by", _evidence(asked.run.record, signed))
    if before == image.digest:
        _show("# there", f"{to} {_THERE}")
    else:
        _show("# before", now)
        print(script(image, to))  # noqa: T201 - the output
    return 0


def _source(image: PinnedName, asked: Request, registries: Registries) -> PinnedName:
    """Return where the image is on the registry that it is promoted on.

    What one repository does not let us see, another one may.

    Raises:
        TargetError: It is not there, or nowhere that we may look.
    """
    to = asked.to.repository
    facts = asked.run.record.launch.get("image")
    digests = facts.get("repo_digests") if isinstance(facts, dict) else None
    known = known_in(to, image, digests if isinstance(digests, list) else [])
    closed: list[TargetError] = []
    for repository in known:
        name = PinnedName(repository=repository, digest=image.digest)
        try:
            if name == image or registries.find(name) is not None:
                return name
        except TargetError as error:
            closed.append(error)
    if closed:
        raise closed[0]
    raise TargetError(
        f"--to: {registry_name(to.host)} does not have {image.digest}, which is on "
        f"{registry_name(image.repository.host)}; no image is carried from one registry to another "
        "here",
        advice=f"copy it, then promote again:\n{script(image, asked.to)}",
    )


def _evidence(record: RunRecord, signed: str) -> str:
    profile = one_line(record.rules.profile) if record.rules else ""
    who = f"signed {signed}" if signed else "who made it is not verified (--key does that)"
    ran = f"run {one_line(record.run_id)} of {one_line(record.started)}"
    return f"{ran} under profile {profile}; {who}"


def _proof(asked: Request) -> tuple[str, tuple[Refusal, ...]]:
    """Ask what `pytest-vllm verify` asks.

    Returns:
        By which key the statement is signed, empty where none was asked for, and what is wrong.
    """
    found = points(asked.run, key=asked.key)
    signatures = [point.text for point in found if point.about == SIGNATURE and point.ok]
    signed = signatures[0] if asked.key is not None and signatures else ""
    if absence(asked.run.record):
        return "", ()  # all that follows from it is refused by its own reason
    wrong = [point for point in found if point.ok is False]
    refusals = [
        Refusal(
            message=f"{point.about}: {point.text}",
            cure=f"{_UNSIGNED if point.about == SIGNATURE else ''}{_UNFIT}",
        )
        for point in wrong
    ]
    if asked.key is not None and not signed and not refusals:
        message = f"{SIGNATURE}: nothing shows that {asked.key.name} signed the run"
        refusals.append(Refusal(message=message, cure=f"{_UNSIGNED}{_UNFIT}"))
    return signed, tuple(refusals)


def _installed(record: RunRecord) -> tuple[tuple[Check, ...], dict[str, str]]:
    """Return checks and suites' digests of the installed version, if it is the one that ran."""
    if record.environment.get("pytest-vllm") != version("pytest-vllm"):
        return (), {}
    return catalogue(SUITES), installed_suites()


def _refuse(refusals: Sequence[Refusal], asked: Request, *, unseen: VllmError | None = None) -> int:
    """Show all that speaks against the promotion."""
    count = f"{len(refusals)} reasons" if len(refusals) > 1 else "one reason"
    run = one_line(asked.run.record.run_id)
    lines = [f"REFUSED: {asked.to} was not touched, for {count} in run {run}:"]
    lines += [f"- {refusal}" for refusal in refusals]
    if unseen is not None:
        lines.append(
            f"The registry could not be asked, so there may be more: {one_line(unseen.message)}"
        )
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - for the terminal
    return _REFUSED


def _show(label: str, text: str) -> None:
    print(f"{label:<10} {one_line(text, LONGEST)}", flush=True)  # noqa: T201 - the output
