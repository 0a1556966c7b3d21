"""Which runs are meant: by image, model, GPU, verdict and time, and names that stand for one."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.run_brief import moment
from pytest_vllm.domain.text import closest, one_line
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from pytest_vllm.domain.run_brief import RunBrief

LATEST = "latest"
_LATEST = re.compile(rf"{LATEST}(?:~([0-9]{{1,6}}))?(?::(.*))?", re.DOTALL)
_AGO = re.compile(r"([0-9]{1,6})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_KEYS = ("image", "model", "gpu", "verdict", "since")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoice:
    """What a run must be like to be meant; empty parts allow any.

    Attributes:
        image: Part of the image's name, or the beginning of its digest, in any case.
        model: Part of the model's name.
        gpu: Part of the GPUs' names.
        decision: What it ended in.
        since: When it began at the earliest.
    """

    image: str = ""
    model: str = ""
    gpu: str = ""
    decision: Decision | None = None
    since: dt.datetime | None = None

    @property
    def any(self) -> bool:
        """Whether every run is meant."""
        return self == RunChoice()

    def fits(self, run: RunBrief) -> bool:
        """Tell whether a run is meant."""
        wanted = self.image.casefold()
        digest = run.digest.casefold()
        named = wanted in run.image.casefold() or digest.startswith(wanted)
        return (
            (named or digest.removeprefix("sha256:").startswith(wanted))
            and self.model.casefold() in run.model.casefold()
            and self.gpu.casefold() in run.gpus.casefold()
            and self.decision in (None, run.decision)
            and (self.since is None or run.started >= self.since)
        )

    def words(self) -> str:
        """Say what is wanted, empty for anything."""
        said = {
            "image": self.image,
            "model": self.model,
            "GPU": self.gpu,
            "verdict": self.decision or "",
            "since": f"{self.since:%Y-%m-%dT%H:%M:%S%z}" if self.since else "",
        }
        return ", ".join(f"{name} {one_line(text, 80)}" for name, text in said.items() if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The newest run of a choice, or one that is some places older.

    Attributes:
        back: How many newer ones are passed over.
        choice: Which runs count.
    """

    back: int = 0
    choice: RunChoice = RunChoice()


def read_choice(  # noqa: PLR0913 - the parts of a choice
    *,
    image: str = "",
    model: str = "",
    gpu: str = "",
    verdict: str = "",
    since: str = "",
    where: str = "--",
    now: dt.datetime | None = None,
) -> RunChoice:
    """Return a choice out of what a person wrote.

    Args:
        image: Part of a name, or beginning of a digest.
        model: Part of a name.
        gpu: Part of a name.
        verdict: PROMOTE, REJECT or INCONCLUSIVE, in any case.
        since: A day, a time in ISO 8601, or how long ago: `7d`, `12h`, `30m`.
        where: What stands before a part's name in an error message.
        now: The present time.

    Raises:
        TargetError: A verdict or a time is none.
    """
    return RunChoice(
        image=image.strip(),
        model=model.strip(),
        gpu=gpu.strip(),
        decision=_decision(verdict, where),
        since=_since(since, where, now or dt.datetime.now(dt.UTC)),
    )


def read_latest(name: str) -> Latest | None:
    """Read `latest`, `latest~1` (the one before), `latest:model=NAME,gpu=NAME`; else `None`.

    Raises:
        TargetError: What follows the colon is no choice.
    """
    found = _LATEST.fullmatch(name)
    if found is None:
        return None
    parts: dict[str, str] = {}
    for word in filter(None, (found[2] or "").split(",")):
        key, equals, value = word.partition("=")
        if key not in _KEYS or not equals or not value or key in parts:
            wrong = closest(key, _KEYS) if key not in _KEYS else ""
            raise TargetError(
                f"{one_line(name, 80)}: {one_line(word, 40)!r} chooses no run{wrong}",
                advice=f"write latest:KEY=VALUE,... with keys out of {', '.join(_KEYS)}, each once",
            )
        parts[key] = value
    choice = read_choice(
        image=parts.get("image", ""),
        model=parts.get("model", ""),
        gpu=parts.get("gpu", ""),
        verdict=parts.get("verdict", ""),
        since=parts.get("since", ""),
        where="latest:",
    )
    return Latest(back=int(found[1] or 0), choice=choice)


def promoted(latest: Latest) -> Latest:
    """Return the same, of runs that ended in PROMOTE unless another verdict is named."""
    decision = latest.choice.decision or Decision.PROMOTE
    return replace(latest, choice=replace(latest.choice, decision=decision))


def _decision(text: str, where: str) -> Decision | None:
    if not text:
        return None
    try:
        return Decision(text.strip().upper())
    except ValueError:
        raise TargetError(
            f"{where}verdict: there is no verdict {one_line(text, 40)!r}"
            f"{closest(text.upper(), tuple(Decision))}",
            advice=f"known are {', '.join(Decision)}",
        ) from None


def _since(text: str, where: str, now: dt.datetime) -> dt.datetime | None:
    text = text.strip()
    if not text:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return now - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return moment(text)
    except (ValueError, OverflowError):
        raise TargetError(
            f"{where}since: {one_line(text, 40)!r} is no time",
            advice="write a day (2026-11-22), a time (2026-11-22T18:00:00+00:00) or how long ago "
            "(7d, 12h, 30m)",
        ) from None
