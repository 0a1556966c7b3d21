"""What a look before or after a start has found: one line each, with the way out.

A finding is the same thing whether preflight computed it before the launch, a signature read it
from a log, or the clean-up noticed it at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Who has to do something (docs/diagnosis.md)."""

    USER = "user"
    """The arguments: a name, a flag or a value."""
    MODEL = "model"
    IMAGE = "image"
    HOST = "host"
    NETWORK = "network"
    FLAKY = "flaky"
    """Known to pass on a second try; the only one that is tried again."""

    @property
    def rejects(self) -> bool:
        """Whether the same image, model and arguments cannot work anywhere: exit 1, else 75."""
        return self in (Fault.USER, Fault.MODEL, Fault.IMAGE)


class Severity(StrEnum):
    """How much a finding matters."""

    FATAL = "fatal"
    """The start cannot succeed, so it is not tried."""
    WARNING = "warning"
    NOTE = "note"
    """Worth a line in the record."""
    NOT_APPLICABLE = "not applicable"
    """A rule that cannot be asked here; `seen` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        id: Stable name, `area.what`, such as `model.unknown-id`.
        severity: How much it matters.
        fault: Who has to do something.
        seen: What was seen, with the numbers in it, in one line.
        cure: What to do, as an option or a command to paste; empty where nothing is to be done.
        ref: Row of the failure table that it prevents, such as `H7`; empty for none.
        ignored: Whether the user said that it does not stop the run.
    """

    id: str
    severity: Severity
    fault: Fault
    seen: str
    cure: str = ""
    ref: str = ""
    ignored: bool = False

    @property
    def stops(self) -> bool:
        """Whether the run ends here."""
        return self.severity is Severity.FATAL and not self.ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A line of a log, or what the Docker engine said.

    Attributes:
        line: Its number, from 1, after the log was split at line ends and carriage returns; 0 for
            what stands in no log, such as a message of the engine.
        text: What it says, without colour codes.
    """

    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why a server did not come up or ended, read from its log and its end.

    Attributes:
        id: Stable name of the signature, such as `gpu.free-memory`; `None` when it is unknown.
        ref: Row of the failure table, such as `G7`; `None` when it is unknown.
        fault: Who has to do something; `None` when it is unknown.
        cause: One line with the numbers in it.
        cure: An option or a command to paste.
        evidence: Up to five lines, oldest first.
        phase: Last start-up phase that was reached.
    """

    id: str | None
    ref: str | None
    fault: Fault | None
    cause: str
    cure: str = ""
    evidence: tuple[Evidence, ...] = ()
    phase: str = ""
