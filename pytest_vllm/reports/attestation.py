"""The statement of a run for policy engines: `attestation.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.statement import absence, statement_json

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord


def attestation_json(record: RunRecord) -> str:
    """Write the in-toto Statement of a run; empty where there can be none."""
    return statement_json(record)


def attestation_absence(record: RunRecord) -> str:
    """Say why a run has no statement, in words; empty where it has one."""
    return absence(record)
