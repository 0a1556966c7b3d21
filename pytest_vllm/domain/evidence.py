"""Where the evidence of a check lies inside the evidence folder, and what is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.exchange import replay_script
from pytest_vllm.domain.unique_names import UniqueNames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import RunRecord

EXCHANGE, REPLAY = "exchange.json", "replay.sh"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 100


def check_folders(results: Iterable[CheckResult]) -> dict[str, CheckResult]:
    """Give each result that did not pass and has exchanges a folder of its own.

    Returns:
        Results by folder, such as `checks/chat.usage.adds-up-stream`, in the order of the results.
    """
    names = UniqueNames()
    return {
        names.take(f"checks/{_file_name(result)}"): result
        for result in results
        if result.outcome in (Outcome.FAIL, Outcome.ERROR) and result.exchanges
    }


def check_files(record: RunRecord) -> dict[str, str]:
    """Return what lies in these folders by relative name, made of the record alone."""
    key_variable = record.server.api_key_env if record.server is not None else ""
    texts: dict[str, str] = {}
    for folder, result in check_folders(record.results).items():
        texts[f"{folder}/{EXCHANGE}"] = _exchange_json(result)
        texts[f"{folder}/{REPLAY}"] = replay_script(
            result.exchanges, key_variable=key_variable or None
        )
    return texts


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


def _file_name(result: CheckResult) -> str:
    """Return `id` or `id-case`; a name that had to be changed gets a hash, so it stays unique."""
    wanted = f"{result.check.id}-{result.case}" if result.case else result.check.id
    name = _UNSAFE.sub("-", wanted).strip(".-")[:_LONGEST]
    if name == wanted:
        return name
    digest = hashlib.sha256(wanted.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{name}-{digest}" if name else digest
