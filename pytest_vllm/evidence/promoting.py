"""`pytest-vllm promote`: gives the image that a run accepted its new tag, and nothing else."""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.registry.client import registry_name
from pytest_vllm.adapters.registry.placing import place
from pytest_vllm.adapters.registry.several import Registries
from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.signing import read_public_key
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.promoted_image import (
    RegistryView,
    accepted_image,
    asked_tag,
    image_refusals,
    known_in,
    other_image,
)
from pytest_vllm.domain.promotion import evidence_refusals, read_age
from pytest_vllm.domain.refusal import AGAIN, Refusal
from pytest_vllm.domain.repository import ImageName, PinnedName, TaggedName
from pytest_vllm.domain.statement import absence
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.promotion_words import script
from pytest_vllm.evidence.verifying import SIGNATURE, points
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.materials import installed_suites
from pytest_vllm.plugin.options import SUITES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_vllm.adapters.registry.manifest import Manifest
    from pytest_vllm.adapters.runs import StoredRun
    from pytest_vllm.adapters.signing import PublicKey
    from pytest_vllm.domain.checks import Check
    from pytest_vllm.domain.record import RunRecord

MAX_AGE = "7d"
_REFUSED = 1
_LONGEST = 2000
"""Characters of a line that is shown."""
_UNFIT = (
    "take the evidence from where it was made (pytest-vllm verify RUN shows all of it), or run the "
    "acceptance again"
)
_UNSIGNED = "sign it where it was made: pytest-vllm sign RUN --key KEY.pem; or "
_OTHER = "name the run of that image; pytest-vllm runs list shows what each one accepted"
_DESCRIPTION = """\
Gives the image that a run accepted a new tag, with the digest that was accepted. It refuses, with
all reasons together, whatever the evidence does not bear out.
"""
_EPILOG = """\
  pytest-vllm promote --run latest --to registry.example.com/rocm/vllm:stable
  pytest-vllm promote --run latest --image "$IMAGE" --to registry.example.com/rocm/vllm:stable
  pytest-vllm promote --run .vllm/20261122-181930-3fa9c1 --to rocm/vllm:0.32.0 --key release.pub
  pytest-vllm promote --run latest --to registry.example.com/rocm/vllm:stable --print

The login is Docker's: docker login, its config and its credential helpers.

exit code: 0 promoted, or already there; 1 refused by the evidence; 4 the command is wrong, or the
registry does not let you; 75 the registry cannot be reached, or does not do what it has to: the
evidence speaks for the image.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the user wants.

    Attributes:
        run: The run.
        to: The new tag.
        image: Which image is meant, `None` for the one that ran.
        max_age: How long ago the run may have begun.
        key: Who must have signed, `None` for nobody.
        only_print: Whether nothing is to be changed.
    """

    run: StoredRun
    to: TaggedName
    image: ImageName | None
    max_age: dt.timedelta
    key: PublicKey | None
    only_print: bool


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    asked = _read(_parser().parse_args(list(words)))
    with Registries(writes=None if asked.only_print else asked.to.repository) as registries:
        return _promote(asked, registries, now=dt.datetime.now(dt.UTC))


def _parser() -> WordParser:
    parser = WordParser("promote", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "--run", required=True, metavar="RUN", help="run.json, its folder, the ID of a run, latest"
    )
    parser.add_argument(
        "--to", required=True, metavar="REF", help="the new tag: HOST[:PORT]/PATH:TAG"
    )
    parser.add_argument(
        "--image",
        metavar="REF",
        help="the image that you mean: sha256:..., REPOSITORY@sha256:..., or the name with a tag "
        "that the run was asked for; refused when the run is about another one",
    )
    parser.add_argument(
        "--max-age",
        default=MAX_AGE,
        metavar="TIME",
        help=f"how long ago the run may have begun, such as 12h or 7d (default: {MAX_AGE})",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="public key (PEM) that the statement must be signed with",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="print commands of crane, skopeo and docker that do the same, and change nothing",
    )
    return parser


def _read(words: argparse.Namespace) -> _Asked:
    to = TaggedName.parse(words.to, what="--to")
    max_age = read_age(words.max_age, what="--max-age")
    image = None if words.image is None else ImageName.parse(words.image, what="--image")
    key = None if words.key is None else read_public_key(Path(words.key), option="--key")
    return _Asked(
        run=read_run(words.run),
        to=to,
        image=image,
        max_age=max_age,
        key=key,
        only_print=words.print,
    )


def _promote(asked: _Asked, registries: Registries, *, now: dt.datetime) -> int:
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
        refusals = refusals or [Refusal(kind="proof", message=message, cure=AGAIN)]
    if asked.image is not None and (other := other_image(record, asked.image)):
        refusals.append(Refusal(kind="digest", message=f"--image: {other}", cure=_OTHER))
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
    return _go_on(asked, registries, image, manifest, signed=signed)


def _go_on(
    asked: _Asked, registries: Registries, image: PinnedName, manifest: Manifest, *, signed: str
) -> int:
    """Do what nothing speaks against."""
    to = asked.to
    before = registries.digest(to)
    there = before == image.digest
    if not there and not asked.only_print:
        source = _source(image, asked, registries)
        place(registries.of(to.repository), manifest, source=source, to=to)
    mark = "# " if asked.only_print else ""  # so that all of it can go to a shell
    _show(f"{mark}accepted", f"{image}")
    _show(f"{mark}by", _evidence(asked.run.record, signed))
    if there:
        _show(f"{mark}there", f"{to} is that image already; nothing was changed")
    elif asked.only_print:
        _show(f"{mark}before", f"{to} is {before or 'nothing'} now")
        print(script(image, to))  # noqa: T201 - the output
    else:
        _show("promoted", f"{to} is {image.digest} now")
        back = f"crane tag {to.repository}@{before} {to.tag} puts it back"
        if before:
            _show("before", f"it was {before}; {back}")
    return 0


def _source(image: PinnedName, asked: _Asked, registries: Registries) -> PinnedName:
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


def _proof(asked: _Asked) -> tuple[str, tuple[Refusal, ...]]:
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
            kind="proof",
            message=f"{point.about}: {point.text}",
            cure=f"{_UNSIGNED if point.about == SIGNATURE else ''}{_UNFIT}",
        )
        for point in wrong
    ]
    if asked.key is not None and not signed and not refusals:
        message = f"{SIGNATURE}: nothing shows that {asked.key.name} signed the run"
        refusals.append(Refusal(kind="proof", message=message, cure=f"{_UNSIGNED}{_UNFIT}"))
    return signed, tuple(refusals)


def _installed(record: RunRecord) -> tuple[tuple[Check, ...], dict[str, str]]:
    """Return checks and suites' digests of the installed version, if it is the one that ran."""
    if record.environment.get("pytest-vllm") != version("pytest-vllm"):
        return (), {}
    return catalogue(SUITES), installed_suites()


def _refuse(refusals: Sequence[Refusal], asked: _Asked, *, unseen: VllmError | None = None) -> int:
    """Show all that speaks against the promotion."""
    count = f"{len(refusals)} reasons" if len(refusals) > 1 else "one reason"
    run = one_line(asked.run.record.run_id)
    lines = [f"REFUSED: {asked.to} was not touched, for {count} in run {run}:"]
    for refusal in refusals:
        lines += [f"- {one_line(refusal.message, _LONGEST)}"]
        lines += [f"  fix: {one_line(refusal.cure, _LONGEST)}"]
    if unseen is not None:
        lines.append(
            f"The registry could not be asked, so there may be more: {one_line(unseen.message)}"
        )
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - for the terminal
    return _REFUSED


def _show(label: str, text: str) -> None:
    print(f"{label:<10} {one_line(text, _LONGEST)}")  # noqa: T201 - the output
