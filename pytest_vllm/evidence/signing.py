"""`pytest-vllm sign`: signs the statement of a run that is over, on a host that has the key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.signing import PASSPHRASE, read_private_key
from pytest_vllm.adapters.store import EvidenceFolder
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.statement import ENVELOPE_FILE, absence, statement_json
from pytest_vllm.domain.text import one_line
from pytest_vllm.evidence.verifying import unsigned_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.adapters.runs import StoredRun

_DESCRIPTION = f"""\
Signs what a run states about an image and writes {ENVELOPE_FILE} into its folder. Whoever signs
vouches for the evidence as it lies there: take it from the host that made it by a way you trust.
"""
_EPILOG = f"""\
  pytest-vllm sign latest --key key.pem

The passphrase of an encrypted key is read from the variable {PASSPHRASE}.

exit code: 0 signed, 1 the run has no statement or its evidence was changed, 4 the command is wrong
or the key cannot be used, 75 the file cannot be written.
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
    path = Path(asked.key)
    key = read_private_key(path, option="--key", passphrase=os.environ.get(PASSPHRASE, ""))
    run = read_run(asked.run)
    file = run.folder / ENVELOPE_FILE
    if file.exists() and not asked.force:
        raise TargetError(f"{file} is there already", advice="add --force to sign anew")
    statement = _statement(run)
    EvidenceFolder(run.folder).write_files({ENVELOPE_FILE: key.sign(statement)})
    print(f"signed by key {key.id[:16]}: {one_line(str(file), 4096)}")  # noqa: T201 - the output
    return 0


def _statement(run: StoredRun) -> str:
    """Return the statement of a run whose evidence is whole.

    Raises:
        VllmError: There is none, or the evidence was changed.
    """
    if missing := absence(run.record):
        raise VllmError(f"there is nothing to sign: {missing}")
    wrong = [f"{p.about}: {p.text}" for p in unsigned_points(run) if p.ok is False]
    if wrong:
        raise VllmError("; ".join(wrong), advice="take the evidence from where it was made")
    return statement_json(run.record, record_sha256=run.sha256)


def _parser() -> WordParser:
    parser = WordParser("sign", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("run", metavar="RUN", help="a run: its folder, run.json, ID or latest")
    parser.add_argument("--key", metavar="KEY.pem", required=True, help="private key that signs")
    parser.add_argument("--force", action="store_true", help="replace an earlier signature")
    return parser
