"""One tree of errors, each with the exit code that tells a CI whom to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.finding import Diagnosis


class VllmError(Exception):
    """An error that a user can act on.

    Args:
        message: What was asked and what was seen, in one line.
        advice: What to do next: an option, a command, a file to edit.
        diagnoses: What the log, the engine or the end of the server say, the cause first.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, advice: str = "", diagnoses: Sequence[Diagnosis] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.diagnoses = tuple(diagnoses)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The cause, `None` when nothing was diagnosed."""
        return self.diagnoses[0] if self.diagnoses else None

    @property
    def others(self) -> tuple[Diagnosis, ...]:
        """What else would fit, the likeliest first."""
        return self.diagnoses[1:]

    def __str__(self) -> str:
        """Show the message and, on a line of its own, the way out."""
        return f"{self.message}\n  fix: {self.advice}" if self.advice else self.message


class TargetError(VllmError):
    """The user named something that cannot be tested: wrong option, file, URL or name."""

    exit_code = 4


class HostError(VllmError):
    """The host or the network stood in the way: no verdict about the image, a retry may help."""

    exit_code = 75


class LaunchFailed(VllmError):  # noqa: N818 - the outcome's name in every report
    """The server did not come up by the fault of the image, the model or its arguments.

    Args:
        message: The one-line cause.
        advice: What to do next.
        phase: The last start-up phase that was reached.
        exit_code_of_server: The server's exit status, `None` while it still runs.
        blames_host: Whether the log says that the host or the network is at fault after all.
        tail: The last log lines, oldest first.
        diagnoses: What the log and the end of the server say, the cause first.
    """

    exit_code = 1

    def __init__(  # noqa: PLR0913 - all that is known about a death
        self,
        message: str,
        *,
        advice: str = "",
        phase: str = "",
        exit_code_of_server: int | None = None,
        blames_host: bool = False,
        tail: tuple[str, ...] = (),
        diagnoses: Sequence[Diagnosis] = (),
    ) -> None:
        super().__init__(message, advice=advice, diagnoses=diagnoses)
        self.phase = phase
        self.exit_code_of_server = exit_code_of_server
        self.blames_host = blames_host
        self.tail = tail
