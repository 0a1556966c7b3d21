"""Writes the evidence folder of a run; nothing secret gets past here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.evidence import REPLAY, check_files
from pytest_vllm.domain.record import from_json, redact_record, to_json
from pytest_vllm.domain.text import redact

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_vllm.domain.record import RunRecord

RECORD = "run.json"
LOG = "server.log"
_MODE = 0o644
_SCRIPT_MODE = 0o755
_MOST_CLASHES = 1000


def new_run_id(now: dt.datetime, random_hex: str) -> str:
    """Name a run by its time in UTC and some random digits: `20261122-181930-3fa9c1`."""
    return f"{now:%Y%m%d-%H%M%S}-{random_hex.lower()}"


def log_text(lines: Iterable[str]) -> str:
    """Return what `server.log` holds, before secrets are taken out."""
    return "".join(f"{line}\n" for line in lines)


def raw(text: str) -> bytes:
    """Return the bytes that are written for what is made of a record.

    A record is redacted text by text, once. What is made of it holds no secret then, and nothing
    more is taken out of it: that would cost JSON its quotes and XML its tags, and nobody could make
    the same file again to compare.
    """
    return text.encode("utf-8", "backslashreplace")


class EvidenceFolder:
    """The folder of one run. Everything written into it is redacted.

    Args:
        path: The folder; it exists.
        secrets: Texts that must not be written.
    """

    def __init__(self, path: Path, *, secrets: Sequence[str] = ()) -> None:
        self.path = path
        self._secrets = tuple(secrets)

    @classmethod
    def create(cls, root: Path, run_id: str, *, secrets: Sequence[str] = ()) -> Self:
        """Make the folder of a run below `root`; never use one that is there already.

        Args:
            root: Folder of all runs. When it is made here, git is told to ignore it.
            run_id: Wanted name; a number is added when it is taken.
            secrets: Texts that must not be written.

        Raises:
            TargetError: There can be no such folder.
        """
        try:
            if not root.is_dir():
                root.mkdir(parents=True)
                (root / ".gitignore").write_text("*\n", encoding="utf-8")
            return cls(_make_new(root, run_id), secrets=secrets)
        except (OSError, ValueError) as error:
            raise TargetError(
                f"--vllm-artifacts: cannot make a folder in {root}: {_words(error)}",
                advice="name a folder that can be written: --vllm-artifacts=FOLDER",
            ) from None

    def redacted(self, record: RunRecord) -> RunRecord:
        """Return the record as it may be shown: without secrets."""
        return redact_record(record, self._secrets)

    def write(
        self,
        record: RunRecord,
        *,
        files: Mapping[str, str | Callable[[RunRecord], str]],
        log_lines: Iterable[str],
    ) -> tuple[str, ...]:
        """Write all evidence, each file whole or not at all, `run.json` last.

        Args:
            record: The run.
            files: Files by relative name: a text, or a report to be made of what `run.json` says.
                What is empty is not written.
            log_lines: The server's log without line ends; no `server.log` for none.

        Returns:
            Why reports are missing that could not be made; they cost the run nothing else.

        Raises:
            HostError: The folder cannot be written.
        """
        record = self.redacted(record)
        data, problems = to_json(record), []
        try:
            record = from_json(data, where=RECORD)  # as whoever renders it again will find it
        except TargetError as error:
            problems.append(f"it will not be read again: {error}")
        try:
            if log := log_text(log_lines):
                self._put(LOG, self.encoded(log))
            for name, content in files.items():
                try:
                    made = (
                        self.encoded(content) if isinstance(content, str) else raw(content(record))
                    )
                except TargetError as error:
                    problems.append(str(error))
                    continue
                if made:
                    self._put(name, made)
            for name, text in check_files(record).items():
                mode = _SCRIPT_MODE if name.endswith(REPLAY) else _MODE
                self._put(name, raw(text), mode=mode)
            self._put(RECORD, raw(data))
        except OSError as error:
            raise HostError(
                f"cannot write evidence into {self.path}: {_words(error)}",
                advice="make room, or name another folder with --vllm-artifacts",
            ) from None
        return tuple(problems)

    def write_files(self, files: Mapping[str, str]) -> None:
        """Write texts by relative name, for what is no run of checks.

        Raises:
            HostError: The folder cannot be written.
        """
        try:
            for name, text in files.items():
                self._put(name, self.encoded(text))
        except OSError as error:
            raise HostError(
                f"cannot write evidence into {self.path}: {_words(error)}",
                advice="make room, or name another folder with --vllm-artifacts",
            ) from None

    def encoded(self, text: str) -> bytes:
        """Return the bytes that are written for a text from elsewhere: without secrets."""
        return raw(redact(text, self._secrets))

    def discard_if_empty(self) -> None:
        """Remove the folder if nothing was written into it."""
        try:
            self.path.rmdir()
        except OSError:
            return

    def _put(self, name: str, data: bytes, *, mode: int = _MODE) -> None:
        """Write one file atomically; the one place where evidence reaches the disk."""
        path = self.path / _relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _make_new(root: Path, run_id: str) -> Path:
    for number in range(1, _MOST_CLASHES):
        path = root / (run_id if number == 1 else f"{run_id}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{run_id} and {_MOST_CLASHES} more names are taken")


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"not a name inside the evidence folder: {name!r}")
    return path


def _words(error: BaseException) -> str:
    """Say what the system said, without number and file name."""
    return getattr(error, "strerror", None) or str(error)
