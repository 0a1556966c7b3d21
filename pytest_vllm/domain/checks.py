"""What a check is and how its result is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.exchange import Exchange

CHECK_ID = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
"""Form of the ID of a check."""


class Level(StrEnum):
    """How much a requirement weighs (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    INFO = "INFO"
    """Seen and recorded, never judged."""


MUST = Level.MUST
SHOULD = Level.SHOULD
INFO = Level.INFO


class Layer(StrEnum):
    """Which contract a requirement comes from."""

    COMPAT = "compat"
    """What clients need in order to work."""
    STRICT = "strict"
    """The OpenAI specification to the letter."""


class Outcome(StrEnum):
    """Outcome of a check, declared from best to worst; an outcome may only rise."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    NOT_APPLICABLE = "not applicable"
    WAIVED = "waived"
    NOT_RUN = "not run"
    FAIL = "fail"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Position in the order, 0 is best."""
        return list(Outcome).index(self)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of some outcomes, `NOT_RUN` for none at all."""
    return max(outcomes, key=lambda outcome: outcome.rank, default=Outcome.NOT_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One requirement that a server can meet or miss.

    Attributes:
        id: Stable name such as `chat.usage.adds-up`; never a node ID.
        suite: The suite it belongs to.
        level: MUST rejects an image, SHOULD is reported, INFO is only seen.
        requirement: One sentence, the docstring of the check.
        layer: The contract it comes from.
        needs: Capabilities the server must have for the check to apply.
        ref: Rows of the acceptance catalogue, such as `C08` or `C08 S02`.
        catches: Names of defects (`pytest-vllm simulate --list-defects`) that it must notice.
        alone: Whether it needs a server that is idle but for its own requests.
        optional: Whether it runs only when its suite is named.
        long: Whether it may take minutes; it then runs after all that do not.
        launched: Whether it looks behind the API, at the log, the GPUs or the processes. A server
            that is merely attached to may show none of them: NOT_RUN then leaves the verdict open
            only where every MUST check has to have a result.
    """

    id: str
    suite: str
    level: Level
    requirement: str
    layer: Layer = Layer.COMPAT
    needs: tuple[str, ...] = ()
    ref: str = ""
    catches: tuple[str, ...] = ()
    alone: bool = False
    optional: bool = False
    long: bool = False
    launched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one case of a check came to.

    Attributes:
        check: The requirement.
        case: Parameter of the check (`chat`), empty when it has none.
        outcome: What it came to.
        message: Why, for anything but PASS.
        duration_s: Seconds of set-up, call and teardown.
        exchanges: The requests and replies of a check that did not pass.
        out_of_time: Whether it was not run for how the run is made: it takes longer than a default
            run allows, or needs the server alone, which xdist's workers share. NOT_RUN then leaves
            the verdict open only where every MUST check has to have a result.
    """

    check: Check
    case: str = ""
    outcome: Outcome
    message: str = ""
    duration_s: float = 0.0
    exchanges: tuple[Exchange, ...] = field(default=())
    out_of_time: bool = False

    @property
    def name(self) -> str:
        """`id` or `id[case]`."""
        return f"{self.check.id}[{self.case}]" if self.case else self.check.id
