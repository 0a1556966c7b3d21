"""Writes and reads the evidence folder of a run; nothing secret gets past here."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.evidence import check_folders
from pytest_vllm.domain.exchange import replay_script
from pytest_vllm.domain.record import from_json, redact_record, to_json
from pytest_vllm.domain.text import redact

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord

RECORD = "run.json"
_LOG = "server.log"
_MODE = 0o644
_SCRIPT_MODE = 0o755
_MOST_CLASHES = 1000


def new_run_id(now: dt.datetime, random_hex: str) -> str:
    """Name a run by its time in UTC and some random digits: `20261122-181930-3fa9c1`."""
    return f"{now:%Y%m%d-%H%M%S}-{random_hex.lower()}"


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
    ) -> None:
        """Write all evidence, each file whole or not at all, `run.json` last.

        Args:
            record: The run.
            files: Files by relative name: a text, or a report to be made of the redacted record.
            log_lines: The server's log without line ends; no `server.log` for none.

        Raises:
            HostError: The folder cannot be written.
        """
        record = self.redacted(record)
        try:
            log = "".join(f"{line}\n" for line in log_lines)
            if log:
                self._put(_LOG, log)
            for name, content in files.items():
                self._put(name, content if isinstance(content, str) else content(record))
            key_variable = record.server.api_key_env if record.server is not None else ""
            for folder, result in check_folders(record.results).items():
                self._put(f"{folder}/exchange.json", _exchange_json(result))
                script = replay_script(result.exchanges, key_variable=key_variable or None)
                self._put(f"{folder}/replay.sh", script, mode=_SCRIPT_MODE)
            self._put(RECORD, to_json(record))
        except OSError as error:
            raise HostError(
                f"cannot write evidence into {self.path}: {_words(error)}",
                advice="make room, or name another folder with --vllm-artifacts",
            ) from None

    def write_files(self, files: Mapping[str, str]) -> None:
        """Write texts by relative name, for what is no run of checks.

        Raises:
            HostError: The folder cannot be written.
        """
        try:
            for name, text in files.items():
                self._put(name, text)
        except OSError as error:
            raise HostError(
                f"cannot write evidence into {self.path}: {_words(error)}",
                advice="make room, or name another folder with --vllm-artifacts",
            ) from None

    def discard_if_empty(self) -> None:
        """Remove the folder if nothing was written into it."""
        try:
            self.path.rmdir()
        except OSError:
            return

    def _put(self, name: str, text: str, *, mode: int = _MODE) -> None:
        """Write one file atomically; the one place where evidence reaches the disk."""
        path = self.path / _relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = redact(text, self._secrets).encode("utf-8", "backslashreplace")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_record(path: str | Path) -> RunRecord:
    """Read the record of an earlier run for `--vllm-baseline`.

    Args:
        path: A `run.json`, or the folder that holds it.

    Raises:
        TargetError: There is none that can be read.
    """
    file = Path(path)
    advice = "name a run.json that pytest-vllm wrote, or its folder"
    try:
        file = file.expanduser()
        if file.is_dir():
            file /= RECORD
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TargetError(f"--vllm-baseline: there is no {file}", advice=advice) from None
    except UnicodeDecodeError:
        raise TargetError(f"--vllm-baseline: {file} is not a text", advice=advice) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"--vllm-baseline: cannot read {file}: {_words(error)}", advice=advice
        ) from None
    return from_json(text, where=f"--vllm-baseline: {file}")


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


def _exchange_json(result: CheckResult) -> str:
    document = {
        "schema": 1,
        "check": result.name,
        "level": result.check.level,
        "requirement": result.check.requirement,
        "outcome": result.outcome,
        "message": result.message,
        "exchanges": [dataclasses.asdict(exchange) for exchange in result.exchanges],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _words(error: BaseException) -> str:
    """Say what the system said, without number and file name."""
    return getattr(error, "strerror", None) or str(error)
