"""How evidence and registry are spoiled, each so that one thing speaks against a promotion."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import WaiverUse
from pytest_vllm.domain.verdict import Decision, Verdict
from tests.real.promotion.accepted import (
    Accepted,
    ask,
    put_other,
)


def spoil_verdict(accepted: Accepted) -> str:
    verdict = Verdict(decision=Decision.REJECT, reasons=("chat.x: it lies",))
    accepted.write(replace(accepted.record, verdict=verdict))
    return "the verdict of the run is REJECT: chat.x: it lies"


def spoil_check(accepted: Accepted) -> str:
    record = accepted.record
    kept = tuple(r for r in record.results if r.check.id != "chat.usage.adds-up")
    assert len(kept) < len(record.results)
    accepted.write(replace(record, results=kept))
    return "1 check has no result, but the profile of the run requires it: chat.usage.adds-up"


def spoil_outcome(accepted: Accepted) -> str:
    record = accepted.record
    results = [
        replace(r, outcome=Outcome.NOT_RUN) if r.check.id == "chat.usage.adds-up" else r
        for r in record.results
    ]
    accepted.write(replace(record, results=tuple(results)))
    return "1 MUST check has not passed: chat.usage.adds-up (not run)"


def spoil_rules(accepted: Accepted) -> str:
    record = accepted.record
    assert record.rules is not None
    accepted.write(replace(record, rules=replace(record.rules, profile="x", pinned_image=False)))
    return "the run was judged by profile x, which lacks pinned-image = true"


def waive(accepted: Accepted, *, days: int, needed: bool) -> str:
    name = "chat.usage.adds-up"
    last = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=days)
    waiver = WaiverUse(
        check=name,
        reason="r",
        link="https://example.com/1",
        expires=last.isoformat(),
        waived=(name,) if needed else (),
    )
    record = accepted.record
    results = tuple(
        replace(r, outcome=Outcome.WAIVED) if needed and r.check.id == name else r
        for r in record.results
    )
    accepted.write(replace(record, results=results, waivers=(waiver,)))
    return f"the waiver of {name} "


def spoil_waiver(accepted: Accepted) -> str:
    return waive(accepted, days=-1, needed=True) + "expired on "


def spoil_need(accepted: Accepted) -> str:
    return waive(accepted, days=1, needed=False) + "was not needed"


def spoil_age(accepted: Accepted) -> str:
    earlier = dt.datetime.now(dt.UTC) - dt.timedelta(days=30)
    accepted.write(replace(accepted.record, started=earlier.isoformat(timespec="seconds")))
    return "the run is 30 days old, and 7 days are allowed"


def spoil_clock(accepted: Accepted) -> str:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    accepted.write(replace(accepted.record, started=later.isoformat(timespec="seconds")))
    return "the run began 3 days from now"


def spoil_record(accepted: Accepted) -> str:
    """Edit run.json as an editor does: the statement is not made anew."""
    accepted.drop_reports()
    file = accepted.folder / "run.json"
    edited = file.read_text().replace('"checks_s": ', '"checks_s": 1', 1)
    assert edited != file.read_text()
    file.write_text(edited)
    return "attestation.json: run.json was edited or replaced: "


def other_result(statement: str) -> str:
    """Have a statement say PASSED instead of WARNED, or WARNED instead of PASSED."""
    other = {"PASSED": "WARNED", "WARNED": "PASSED"}
    before, result, after = re.split(r'(?<="result": )"(PASSED|WARNED)"', statement, maxsplit=1)
    return f'{before}"{other[result]}"{after}'


def spoil_statement(accepted: Accepted) -> str:
    file = accepted.folder / "attestation.json"
    file.write_text(other_result(file.read_text()))
    return "attestation.json: predicate.result: the statement says "


def spoil_nothing_left(accepted: Accepted) -> str:
    (accepted.folder / "attestation.json").unlink()
    return "attestation.json: is missing"


def spoil_compose(accepted: Accepted) -> str:
    file = accepted.folder / "compose.json"
    file.write_text(file.read_text() + " ")
    return "compose.json: was edited or replaced: "


def spoil_tag(accepted: Accepted) -> str:
    other = put_other(accepted, "rc")
    return f"{accepted.repository}:rc, which the run was asked for, names {other} now"


def spoil_image(accepted: Accepted) -> str:
    path = f"{accepted.path}/manifests/{accepted.digest}"
    put_other(accepted, "rc")
    ask(accepted.address, path, method="DELETE").close()
    return f"{accepted.repository} does not have {accepted.digest}, which the run accepted"


def spoil_digest(accepted: Accepted) -> str:
    record = accepted.record
    image = {**record.launch["image"], "runs": record.launch["image"]["id"]}
    accepted.write(replace(record, launch={**record.launch, "image": image}))
    return f"the run knows {accepted.repository}:rc by its image ID only"


SPOILERS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]
