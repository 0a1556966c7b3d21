"""The verb `pytest-vllm golden record`: make a golden of an accepted server or a reference."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.golden import refuse_to_overwrite, write_golden
from pytest_vllm.adapters.http import Transport
from pytest_vllm.adapters.reference import TransformersReference
from pytest_vllm.adapters.runs import read_run
from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.golden import UNKNOWN, Golden, short_name
from pytest_vllm.plugin.accuracy import answer_questions
from pytest_vllm.plugin.client import Client
from pytest_vllm.plugin.golden import ServerReader, record
from pytest_vllm.plugin.skips import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.record import RunRecord
    from pytest_vllm.domain.server import ServerInfo

REQUEST_S = 600.0
"""Seconds for one request; a long prompt is scored token by token."""
CONCURRENCY = 16
"""Questions at the same time."""
_REJECTED = 1


def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What stands behind `pytest-vllm golden`.

    Returns:
        0 when a golden was written, else the exit code of what stood in the way.
    """
    try:
        asked = _parser().parse_args(words)
    except SystemExit as end:
        return 0 if end.code == 0 else TargetError.exit_code
    try:
        _check(asked)
        if asked.output is not None:
            refuse_to_overwrite(asked.output, force=asked.force)
        golden = _of_reference(asked) if asked.reference else _of_server(asked)
        path = asked.output or Path(_file_name(golden))
        write_golden(golden, path, force=asked.force)
    except _NotAccepted as refusal:
        _complain(f"{asked.url} is not accepted, so its numbers are no golden")
        return refusal.code
    except NotApplicable as reason:
        _complain(f"this model cannot have a golden: {reason}")
        return HostError.exit_code
    except VllmError as error:
        _complain(str(error))
        return error.exit_code
    print(f"{path}: {golden.model}, {golden.precision}, {path.stat().st_size} bytes")  # noqa: T201
    return 0


class _NotAccepted(Exception):  # noqa: N818 - an outcome
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-vllm golden", description=__doc__)
    verb = parser.add_subparsers(dest="verb", required=True).add_parser(
        "record", help="write a golden file"
    )
    verb.add_argument(
        "--url", "--vllm-url", help="server to record; it must pass the content checks first"
    )
    verb.add_argument("--output", type=Path, metavar="FILE", help="file to write")
    verb.add_argument("--force", action="store_true", help="replace the file if it exists")
    verb.add_argument("--reference", choices=("hf",), help="record transformers, not a server")
    verb.add_argument("--model", metavar="FOLDER", help="model of --reference")
    verb.add_argument(
        "--python", default=sys.executable, help="interpreter with transformers (default: this)"
    )
    verb.add_argument(
        "--max-model-len", type=int, metavar="N", help="context length to record --reference for"
    )
    verb.add_argument("--dtype", help="arithmetic: of --reference, or as the server was launched")
    verb.add_argument("--quantization", help="as the server was launched; none for no quantization")
    verb.add_argument(
        "--accuracy", action="store_true", help="also score the questions of the suite accuracy"
    )
    verb.add_argument("--image", default="", help="image and digest of the server, for the record")
    return parser


def _check(asked: argparse.Namespace) -> None:
    if asked.reference and not asked.model:
        raise TargetError("--reference needs a model", advice="add --model=FOLDER")
    if asked.reference and asked.url:
        raise TargetError("--url and --reference exclude each other", advice="drop one of them")
    if not asked.reference and not asked.url:
        raise TargetError("nothing to record", advice="add --url=URL or --reference=hf")
    if asked.reference and asked.dtype not in (None, "float32", "bfloat16", "float16"):
        raise TargetError(f"--dtype: no {asked.dtype!r}", advice="use float32 or bfloat16")


def _of_server(asked: argparse.Namespace) -> Golden:
    accepted = _accept(asked.url)
    info = accepted.server
    if info is None:
        raise HostError("the content checks ended without a server")
    key = os.environ.get(info.api_key_env) if info.api_key_env else None
    with closing(Transport(info.url, api_key=key, timeout_s=REQUEST_S)) as transport:
        client = Client(info, transport)
        try:
            golden = record(
                ServerReader(client),
                model=short_name_of(info, client),
                dtype=asked.dtype or UNKNOWN,
                quantization=asked.quantization or UNKNOWN,
                provenance=_provenance(
                    source="vllm",
                    vllm=info.version,
                    server=info.url,
                    image=asked.image,
                    accepted_by=accepted.run_id,
                ),
            )
            if not asked.accuracy:
                return golden
            score = answer_questions(client, concurrency=CONCURRENCY)
            return dataclasses.replace(golden, accuracy=score)
        except AssertionError as error:
            _complain(str(error))
            raise _NotAccepted(_REJECTED) from None


def _accept(url: str) -> RunRecord:
    """Run the content checks on a server, as anybody would, and return what came of it.

    Raises:
        _NotAccepted: The server does not pass them.
    """
    folder = Path(f".vllm/golden-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{os.getpid()}")
    words = [f"--vllm-url={url}", "--vllm-suite=content", f"--vllm-artifacts={folder}"]
    command = [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider"]
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - ourselves
    if code:
        raise _NotAccepted(code)
    return read_run("latest", root=folder).record


def short_name_of(info: ServerInfo, client: Client) -> str:
    """Return the name of the weights where the server tells it, else the name it serves."""
    roots = [str(entry.get("root") or "") for entry in client.models()]
    root = next((root for root in roots if root), info.model)
    return root.rstrip("/").rpartition("/")[2]


def _of_reference(asked: argparse.Namespace) -> Golden:
    dtype = asked.dtype or "float32"
    with TransformersReference(asked.python, folder=asked.model, dtype=dtype) as reference:
        reader = reference.limited(asked.max_model_len)
        return record(
            reader,
            model=Path(asked.model).name,
            # float32 is what every server's arithmetic is held against, not what it runs in
            dtype=UNKNOWN if dtype == "float32" else dtype,
            quantization=asked.quantization or "none",
            provenance=_provenance(source=f"transformers in {dtype}", **reference.versions),
        )


def _provenance(**facts: str) -> dict[str, str]:
    now = dt.datetime.now(dt.UTC)
    told = {name: value for name, value in facts.items() if value}
    return {"recorded": f"{now:%Y-%m-%dT%H:%M:%SZ}", "pytest-vllm": version("pytest-vllm"), **told}


def _file_name(golden: Golden) -> str:
    return f"{short_name(golden.model)}-{golden.dtype}-{golden.quantization}.golden.json"


def _complain(message: str) -> None:
    print(f"ERROR: {message}", file=sys.stderr)  # noqa: T201 - for the terminal
