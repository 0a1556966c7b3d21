"""`pytest-vllm report`: writes the reports of a run again, from its `run.json` alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.plain_file import read_plain
from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.record import to_json
from pytest_vllm.domain.statement import RECORD_FILE, STATEMENT_FILE, absence, statement_json
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.guard import refuse_evidence
from pytest_vllm.evidence.output import put_out
from pytest_vllm.reports.registry import REPORTS
from pytest_vllm.reports.terminal import summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.runs import StoredRun

_WIDTH, _WIDEST = 80, 110
_JSON = "json"
_JSON_FILE = RECORD_FILE
_DESCRIPTION = """\
Writes reports of a run that is over, from its run.json alone, whatever version of pytest-vllm made
it. Without a format it shows the screen that the run ended with.
"""
_EPILOG = """\
  pytest-vllm report latest
  pytest-vllm report .vllm/20261122-181930-3fa9c1 --md >> "$GITHUB_STEP_SUMMARY"
  pytest-vllm report latest --html --output acceptance.html
  pytest-vllm report latest --all --output reports/

A run is a folder, its run.json, an ID below the folder of all runs or the beginning of one, or
latest. What is there already is never replaced without --overwrite, be it a report of the same run.
Evidence is not replaced at all, except a report by one of the very run.json beside it.

exit code: 0 written, 4 the command is wrong or the run has no such report, 75 it cannot be written.
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
    names = [name for name in (*REPORTS, _JSON) if asked.all or getattr(asked, name)]
    run = read_run(asked.run)
    if asked.all or len(names) > 1:
        _write_folder(run, names, asked)
    else:
        text = _text(run, names[0]) if names else _screen(run)
        path = _file(asked.output, names)
        if path is not None and _is_the_evidence(run, Path(path)):
            raise TargetError(
                f"--output: {one_line(path, 200)} is the evidence itself, which stays as it is",
                advice="name another file",
            )
        own = _own(run, Path(path).parent, names) if path is not None and names else None
        put_out(text, path=path, overwrite=asked.overwrite, own=own)
    return 0


def _parser() -> WordParser:
    parser = WordParser("report", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("run", metavar="RUN", help="the run")
    for name, report in REPORTS.items():
        parser.add_argument(
            f"--{name}", action="store_true", help=f"{report.about} ({report.file})"
        )
    parser.add_argument(
        f"--{_JSON}", action="store_true", help="the record itself, in the form of this version"
    )
    parser.add_argument("--all", action="store_true", help="all of them, those that the run has")
    parser.add_argument(
        "--output",
        metavar="FILE|FOLDER",
        help="where to write instead of to the terminal; a folder for several, made if need be",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    return parser


def _text(run: StoredRun, name: str) -> str:
    """Return a report as text.

    Raises:
        TargetError: The run cannot have it.
    """
    if name == _JSON:
        return to_json(run.record)
    text = _render(run, name)
    if not text:
        why, _, cure = _lack(run, name).partition("; ")
        raise TargetError(
            f"run {one_line(run.record.run_id, 80)} has no {REPORTS[name].file}: {why}",
            advice=cure or "ask for another report",
        )
    return text


def _render(run: StoredRun, name: str) -> str:
    """Write a report; the statement with the digest of the `run.json` that lies there.

    That may be written otherwise than this version would write it.
    """
    report = REPORTS[name]
    if report.file == STATEMENT_FILE:
        return statement_json(run.record, record_sha256=run.sha256)
    return report.render(run.record)


def _lack(run: StoredRun, name: str) -> str:
    """Say why a run has no report of a kind."""
    said = absence(run.record) if name == "attestation" else ""
    return said or "there is nothing that it could show"


def _screen(run: StoredRun) -> str:
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns
    text = summary(
        run.record,
        width=min(columns, _WIDEST),
        color=sys.stdout.isatty(),
        evidence=str(run.folder),
    )
    return text if text.endswith("\n") else f"{text}\n"


def _file(output: str | None, names: Sequence[str]) -> str | None:
    """Return the file of one report: below a folder that is there it has its own name."""
    if not output or not names:
        return output
    try:
        is_folder = Path(output).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return output  # which says why when it is written
    return str(Path(output) / _name(names[0])) if is_folder else output


def _name(name: str) -> str:
    return _JSON_FILE if name == _JSON else REPORTS[name].file


def _write_folder(run: StoredRun, names: Sequence[str], asked: argparse.Namespace) -> None:
    """Write several reports, none of them where one is in the way.

    Raises:
        TargetError: No folder is named, or one of the files is there.
        HostError: The folder cannot be made.
    """
    if not asked.output:
        raise TargetError(
            "report: several reports do not fit on the terminal",
            advice="name a folder for them, e.g. --output reports/",
        )
    texts: dict[str, str] = {}
    for name in names:
        if not asked.all or name == _JSON:
            texts[_name(name)] = _text(run, name)
        elif text := _render(run, name):
            texts[_name(name)] = text
        else:
            note = f"no {REPORTS[name].file}: {_lack(run, name)}"
            print(note, file=sys.stderr)  # noqa: T201 - for the terminal
    folder = _folder(asked.output)
    if _is_of(run, folder):
        texts.pop(_JSON_FILE, None)  # it is there, to the byte
    _refuse_taken(run, folder, texts, overwrite=asked.overwrite)
    for file, text in texts.items():
        own = folder / file if _is_of(run, folder) else None
        put_out(text, path=str(folder / file), overwrite=asked.overwrite, own=own)


def _own(run: StoredRun, folder: Path, names: Sequence[str]) -> Path | None:
    """Return the report beside the very `run.json` that it is made of, which may be made again.

    The record itself is no report: its bytes are what a statement has signed.
    """
    name = _name(names[0])
    return folder / name if name != _JSON_FILE and _is_of(run, folder) else None


def _is_of(run: StoredRun, folder: Path) -> bool:
    """Tell whether a folder has the `run.json` that was read, or a copy to the byte."""
    try:
        return read_plain(folder.expanduser() / RECORD_FILE, largest=len(run.data)) == run.data
    except (VllmError, RuntimeError):
        return False


def _folder(output: str) -> Path:
    shown = one_line(output, 200)
    try:
        folder = Path(output).expanduser()
        if folder.exists() and not folder.is_dir():
            raise TargetError(
                f"--output: {shown} is a file, and several reports need a folder",
                advice="name a folder, or ask for one report",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise HostError(
            f"--output: cannot make the folder {shown}: {why}", advice="name another one"
        ) from None
    return folder


def _is_the_evidence(run: StoredRun, file: Path) -> bool:
    """Tell whether a file is the `run.json` that was read, by whatever name."""
    try:
        return file.expanduser().samefile(run.file)
    except (OSError, ValueError, RuntimeError):
        return False  # there is no such file


def _refuse_taken(
    run: StoredRun, folder: Path, files: Mapping[str, str], *, overwrite: bool
) -> None:
    """Refuse to write any file where one of them is in the way."""
    for file in files if overwrite else ():
        refuse_evidence(folder / file, own=folder / file if _is_of(run, folder) else None)
    taken = [file for file in files if (folder / file).exists()]
    if taken and not overwrite:
        raise TargetError(
            f"--output: {one_line(str(folder), 200)} already holds {', '.join(taken)}",
            advice="name another folder, or replace them with --overwrite",
        )
