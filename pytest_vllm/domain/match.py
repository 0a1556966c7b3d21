"""Signatures that fit a log, ranked by the rules of docs/diagnosis.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.signature import Role
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_vllm.domain.signature import Pattern, Signature
    from pytest_vllm.domain.start_log import StartLog

CHATTER = ("INFO", "DEBUG")
"""Levels of lines that name no cause: they hold requests, options and figures."""
RETRY = re.compile(
    r"[Rr]etrying (?:in |\d+ of )|thrown while requesting|\[Retry \d+/\d+\]|Error retrieving "
)
"""Lines of a failure that is tried again, or that the server can do without."""
_SILENCE = re.compile(
    r"No available (?:shared memory broadcast )?block found in|vLLM hangs in phase"
)
_SAID_CHARS = 4000
_Hits = dict[int, tuple["Basis", dict[str, str]]]


class Basis(IntEnum):
    """What a match rests on, the weightiest first."""

    DAEMON = 0
    OOM = 1
    LOG = 2
    SILENCE = 3
    CONSEQUENCE = 4
    HINT = 5
    REQUEST = 6


@dataclass(slots=True)
class Match:
    """A signature that fits.

    Attributes:
        signature: It.
        rank: What sorts: what it rests on, depth of the process, index of the line.
        hits: Indices of the lines that match, the best first.
        values: Named groups of the best.
        said: What the daemon said, when the match rests on that.
    """

    signature: Signature
    rank: tuple[Basis, int, int]
    hits: list[int] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    said: str = ""


def ranked_matches(
    start: StartLog, signatures: Sequence[Signature], said: Iterable[str]
) -> list[Match]:
    """Return what fits, the likeliest first, each signature once.

    Args:
        start: The log and its end.
        signatures: What is known.
        said: What the daemon said.
    """
    found = [
        match for text in said for match in _by_daemon(one_line(text, _SAID_CHARS), signatures)
    ]
    for signature in signatures:
        found += [*_by_end(start, signature), *_by_log(start, signature)]
    best: dict[str, Match] = {}
    for match in sorted(found, key=lambda match: match.rank):
        best.setdefault(match.signature.id, match)
    kept = list(best.values())
    causes = [match for match in kept if match.rank[0] < Basis.CONSEQUENCE]
    if causes:  # what follows from a cause is no other cause
        return causes
    if follows := [match for match in kept if match.rank[0] is Basis.CONSEQUENCE]:
        return follows
    hints = [match for match in kept if match.rank[0] is Basis.HINT]
    if start.ended_badly or (hints and (start.is_excerpt or start.root_text or start.crash)):
        return hints
    return [match for match in kept if match.rank[0] is Basis.REQUEST]


def _by_daemon(text: str, signatures: Sequence[Signature]) -> Iterator[Match]:
    for signature in signatures:
        matches = [
            (pattern.role is not Role.CAUSE, match.start(), groups(match))
            for pattern in signature.patterns
            if pattern.role is not Role.REQUEST and (match := pattern.search(text))
        ]
        if matches:
            follows, start, values = min(matches, key=lambda entry: entry[:2])
            rank = (Basis.DAEMON, int(follows), start)
            yield Match(signature, rank, values=values, said=text)


def _by_end(start: StartLog, signature: Signature) -> Iterator[Match]:
    sign, end = signature.exit, start.end
    if sign is None:
        return
    if sign.oom_killed and end.oom_killed:
        yield Match(signature, (Basis.OOM, 0, 0))
    elif (
        end.exit_code in sign.codes
        and not start.was_stopped
        and not (sign.no_vllm_line and start.has_vllm_line)
    ):
        yield Match(signature, (Basis.CONSEQUENCE, 3, 0))


def _by_log(start: StartLog, signature: Signature) -> Iterator[Match]:
    log = start.log
    if signature.exit and signature.exit.no_vllm_line and start.has_vllm_line:
        return
    hits: _Hits = {}
    for pattern in signature.patterns:
        for index in log.near(pattern):
            match = pattern.regex.search(log.line(index).text)
            weight = _weight(start, signature, pattern, index) if match else None
            if match is None or weight is None:
                continue
            if index not in hits or weight < hits[index][0]:
                hits[index] = (weight, groups(match))
    if signature.hang is not None:
        hits = _standing(start, signature, hits)
    if len(hits) < signature.count:
        return
    best = min(hits, key=lambda index: (hits[index][0], log.line(index).depth, index))
    weight, values = hits[best]
    alike = [at for at, (other, _) in sorted(hits.items()) if other == weight and at != best]
    rank = (weight, log.line(best).depth, best)
    yield Match(signature, rank, hits=[best, *alike], values=values)


def _weight(start: StartLog, signature: Signature, pattern: Pattern, index: int) -> Basis | None:
    """Return what a match in this line would rest on, `None` when it would say nothing."""
    if not _is_in_time(start, signature, index) or start.is_source(index):
        return None
    line = start.log.line(index)
    if signature.hang is not None:
        return Basis.SILENCE
    if pattern.role is Role.REQUEST:  # the log of a server that is well is full of them
        return Basis.REQUEST if start.is_excerpt else None
    warns = line.level == "WARNING"
    if line.level in CHATTER or (warns and pattern.role is Role.CAUSE):
        return None
    # A warning or a retry proves nothing: what it warns of may go well.
    if pattern.role is Role.HINT or warns or RETRY.search(line.text):
        return Basis.HINT
    return Basis.CONSEQUENCE if pattern.role is Role.CONSEQUENCE else Basis.LOG


def _is_in_time(start: StartLog, signature: Signature, index: int) -> bool:
    """Tell whether the line belongs to the part of the log that the signature is about."""
    if index > start.stop:
        return False
    if signature.serving:
        return index > start.ready >= 0 or start.is_excerpt
    if signature.hang is not None and start.ready >= 0:
        return False
    return index > start.since


def _standing(start: StartLog, signature: Signature, hits: _Hits) -> _Hits:
    """Keep the hits since when nothing has moved, if nothing moves for long."""
    moved = max(
        (index for pattern in signature.hang or () for index in start.log.matching(pattern)),
        default=-1,
    )
    kept = {index: hit for index, hit in hits.items() if index > moved}
    if not kept or signature.count > 1:
        return kept
    last = max(kept)
    after = start.log.lines(last + 1)
    silent = start.end.hung or any(_SILENCE.search(line.text) for line in after)
    return {last: kept[last]} if silent or start.is_excerpt else {}


def groups(match: re.Match[str]) -> dict[str, str]:
    """Return the named groups that took part."""
    return {name: text for name, text in match.groupdict().items() if text is not None}
