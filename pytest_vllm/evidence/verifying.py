"""`pytest-vllm verify`: holds the statement and the signature of a run against its evidence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.plain_file import read_plain
from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.signing import (
    SignatureError,
    payload_of,
    read_public_key,
    verify_envelope,
)
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.promoted_image import other_image
from pytest_vllm.domain.record_doubts import doubts
from pytest_vllm.domain.repository import ImageName
from pytest_vllm.domain.statement import (
    ENVELOPE_FILE,
    RECORD_FILE,
    STATEMENT_FILE,
    absence,
    problems,
    result_of,
    subject_of,
)
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.evidence.folder import LARGEST, folder_points
from pytest_vllm.evidence.point import Point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vllm.adapters.runs import StoredRun
    from pytest_vllm.adapters.signing import PublicKey
    from pytest_vllm.domain.record import RunRecord

SIGNATURE = "signature"
"""What the point is about that says who signed: true only where a signature was verified."""
_VERDICT = "verdict"
_WRONG = 1
_WORDS = {True: "OK", False: "WRONG", None: "NOTE"}
_DESCRIPTION = """\
Holds what a run states about an image against the run itself: who signed it, whether it says what
run.json says, whether compose file and log are those of the run, and whether the reports beside it
are what run.json gives. What is not covered is named.
"""
_EPILOG = """\
  pytest-vllm verify latest
  pytest-vllm verify .vllm/20261122-181930-3fa9c1 --key release.pem \\
    --image registry.example/rocm/vllm@sha256:9f86...

Without --key nothing proves who made the evidence: whoever can write the folder can make all of it
anew.

exit code: 0 nothing is wrong and the verdict is PROMOTE, 1 something is wrong or the verdict is
REJECT, 4 the command is wrong, 75 nothing is wrong and there is no verdict.
"""


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    asked = _parser().parse_args(list(words))
    key = read_public_key(Path(asked.key)) if asked.key is not None else None
    image = None if asked.image is None else ImageName.parse(asked.image, what="--image")
    run = read_run(asked.run)
    found = (*points(run, key=key, image=image), *_verdict(run))
    width = max(len(point.about) for point in found)
    print(f"run {one_line(run.record.run_id)} in {one_line(str(run.folder))}")  # noqa: T201 - the output
    for point in found:
        text = one_line(point.text, 2000)
        print(f"  {_WORDS[point.ok]:<5}  {point.about:<{width}}  {text}")  # noqa: T201
    if any(point.ok is False for point in found):
        return _WRONG
    return run.record.verdict.decision.exit_code


def points(
    run: StoredRun, *, key: PublicKey | None = None, image: ImageName | None = None
) -> tuple[Point, ...]:
    """Look at the statement, the signature and the digests of a run.

    Args:
        run: As it lies on the disk.
        key: Who must have signed it, `None` to ask for no signature.
        image: What it must be about, `None` for any image.
    """
    record = run.record
    if missing := absence(record):
        ok = None if record.verdict.decision is Decision.INCONCLUSIVE and key is None else False
        none = Point(ok=ok, about="statement", text=f"there is none: {missing}")
        return (none, *folder_points(run))
    return (*_statements(run, key), *folder_points(run), *(_image(run, image) if image else ()))


def unsigned_points(run: StoredRun) -> tuple[Point, ...]:
    """Look at what somebody is about to sign: statement without envelope, files, contradictions.

    A REJECT that the results bear is signed as any verdict: the statement says FAILED.
    """
    return (*_plain_statement(run, signed=None), *folder_points(run), *_doubts(run.record))


def _statements(run: StoredRun, key: PublicKey | None) -> Iterator[Point]:
    """Look at the envelope first: what is signed counts, and the plain statement must be the same.

    Without a key that is only hearsay, and said so.
    """
    about, signed = SIGNATURE, None
    try:
        text = _read(run, ENVELOPE_FILE)
        if text is None:
            said = f"nobody signed this run: there is no {ENVELOPE_FILE}"
            said += "" if key is not None else "; nothing proves who made it"
            yield Point(ok=None if key is None else False, about=about, text=said)
        elif key is None:
            signed, ids = payload_of(text)
            names = ", ".join(one_line(each[:16]) or "without an ID" for each in ids) or "of nobody"
            said = f"said to be of key {names}; not verified, for no --key is named"
            yield Point(ok=None, about=about, text=f"{said}: nothing proves who made it")
        else:
            signed = verify_envelope(text, key)
            yield Point(ok=True, about=about, text=f"by key {key.id[:16]} ({key.name})")
    except VllmError as error:
        advice = f" ({error.advice})" if error.advice else ""
        yield Point(ok=False, about=about, text=f"{error.message}{advice}")
    if signed is not None:
        yield from _said(run, signed, where=ENVELOPE_FILE)
    yield from _plain_statement(run, signed=signed)


def _plain_statement(run: StoredRun, *, signed: str | None) -> Iterator[Point]:
    """Look at the statement that lies there without an envelope."""
    try:
        text = _read(run, STATEMENT_FILE)
    except VllmError as error:
        yield Point(ok=False, about=STATEMENT_FILE, text=error.message)
        return
    if text is None and signed is None:
        folder = run.folder.absolute()
        file = shlex.quote(str(folder / STATEMENT_FILE))
        cure = f"pytest-vllm report {shlex.quote(str(folder))} --attestation --output {file}"
        yield Point(ok=False, about=STATEMENT_FILE, text=f"is missing (make it: {cure})")
    elif text is not None and signed is None:
        yield from _said(run, text, where=STATEMENT_FILE)
    elif text is not None and text != signed:
        yield Point(ok=False, about=STATEMENT_FILE, text=f"is not what {ENVELOPE_FILE} holds")


def _said(run: StoredRun, text: str, *, where: str) -> Iterator[Point]:
    """Hold a statement against `run.json`."""
    found = problems(run.record, record_sha256=run.sha256, text=text)
    for problem in found:
        yield Point(ok=False, about=where, text=problem)
    subject = subject_of(run.record)
    if not found and subject is not None:
        yield Point(
            ok=True,
            about=where,
            text=f"says {result_of(run.record)} of {subject.repository}@{subject.digest}, made of "
            f"this {RECORD_FILE}",
        )


def _image(run: StoredRun, image: ImageName) -> Iterator[Point]:
    other = other_image(run.record, image)
    yield Point(ok=not other, about="image", text=other or f"{image} is the one that ran")


def _verdict(run: StoredRun) -> Iterator[Point]:
    """Look at the verdict, which the results of the run have to bear."""
    record = run.record
    if doubted := _doubts(record):
        yield from doubted
        return
    decision = record.verdict.decision
    reason = one_line(record.verdict.reasons[0], 200) if record.verdict.reasons else ""
    ok = {Decision.PROMOTE: True, Decision.REJECT: False}.get(decision)
    text = f"{decision}: {reason}" if reason else str(decision)
    yield Point(ok=ok, about=_VERDICT, text=text)


def _doubts(record: RunRecord) -> tuple[Point, ...]:
    return tuple(Point(ok=False, about=_VERDICT, text=text) for text in doubts(record))


def _read(run: StoredRun, name: str) -> str | None:
    """Return a text of the evidence folder, `None` where it is not there.

    Raises:
        VllmError: It cannot be read.
    """
    data = read_plain(run.folder / name, largest=LARGEST)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise SignatureError(f"{name} is not a text") from None


def _parser() -> WordParser:
    parser = WordParser("verify", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("run", metavar="RUN", help="a run: its folder, run.json, ID or latest")
    parser.add_argument(
        "--key", metavar="PUBLIC.pem", help="public key of who must have signed the statement"
    )
    parser.add_argument(
        "--image",
        metavar="REF",
        help="image that the run must be about: sha256:..., REPOSITORY@sha256:..., or the name "
        "with a tag that it was asked for",
    )
    return parser
