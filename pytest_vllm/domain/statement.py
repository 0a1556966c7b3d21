"""What a run states about an image: the in-toto Statement of its record, and what belies one.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and, for the predicate,
https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.ci_job import JOB
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.json_object import read_object
from pytest_vllm.domain.plain import mappings
from pytest_vllm.domain.record import plain, to_json
from pytest_vllm.domain.repository import PinnedName
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.checks import CheckResult
    from pytest_vllm.domain.record import Material, RunRecord

STATEMENT_FILE = "attestation.json"
ENVELOPE_FILE = "attestation.dsse.json"
RECORD_FILE = "run.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
VERDICT = "verdict"
"""Stands among the failed tests where no check failed and the image is rejected all the same."""
_COMMIT = re.compile(r"@(?P<commit>[0-9a-f]{40})$")
_VERSIONS = ("pytest-vllm", "pytest", "python")
_OF_A_GPU = ("name", "gfx", "driver", "vram_total_bytes")
_MOST_DIFFERENCES = 5
_BAD = (Outcome.FAIL, Outcome.ERROR)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The image that a run was about, as a registry knows it.

    Attributes:
        repository: Registry host and path, such as `rocm/vllm`.
        sha256: Digest of its manifest or index, 64 hexadecimal digits.
    """

    repository: str
    sha256: str

    @property
    def digest(self) -> str:
        """`sha256:...`."""
        return f"sha256:{self.sha256}"


def subject_of(record: RunRecord) -> Subject | None:
    """Return the image that ran by its digest in a registry, `None` where that is not known."""
    image = record.launch.get("image")
    runs = image.get("runs") if isinstance(image, dict) else None
    try:
        pinned = PinnedName.parse(runs if isinstance(runs, str) else "", what="launch.image.runs")
    except TargetError:
        return None
    # As the run wrote it: a statement of an earlier version has to stay the same.
    repository = str(runs).partition("@")[0]
    return Subject(repository=repository, sha256=pinned.digest.removeprefix("sha256:"))


def absence(record: RunRecord) -> str:
    """Say why there can be no statement about a run, in words; empty where there can be one."""
    if record.verdict.decision is Decision.INCONCLUSIVE:
        return (
            "the verdict is INCONCLUSIVE, and a statement can only say PASSED, WARNED or FAILED; "
            "run the acceptance again"
        )
    if record.backend != "docker":
        return (
            f"no image was tested (backend {one_line(record.backend, 40)}), and a statement is "
            "about the digest of an image; run with --vllm-image=IMAGE"
        )
    if subject_of(record) is None:
        return (
            "the image that ran has no digest of a registry, only an ID of this host, which no "
            "registry knows; push it, and run with --vllm-image=REGISTRY/NAME:TAG"
        )
    if record.rules is None:
        return (
            "the run was made by an earlier version, which kept no digests of suites, profile and "
            "model; run the acceptance again"
        )
    return ""


def statement_of(record: RunRecord, *, record_sha256: str = "") -> Json:
    """Make the Statement of a run: the same for the same record, whenever it is made.

    Args:
        record: A run for which `absence` is empty.
        record_sha256: Digest of its `run.json`; by default that of the file as it is written.

    Raises:
        ValueError: There can be no statement about this run.
    """
    subject = subject_of(record)
    if subject is None or absence(record):
        raise ValueError(absence(record))
    digest = record_sha256 or hashlib.sha256(to_json(record).encode()).hexdigest()
    statement: Json = plain(
        {
            "_type": STATEMENT_TYPE,
            "subject": [_subject(record, subject)],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                **({"url": url} if (url := record.environment.get(JOB)) else {}),
                "result": result_of(record),
                "configuration": [_run(record, digest), *map(_descriptor, record.materials)],
                "passedTests": [r.name for r in record.results if r.outcome is Outcome.PASS],
                "warnedTests": [r.name for r in record.results if _warned(r)],
                "failedTests": _failed(record),
            },
        }
    )
    return statement


def statement_json(record: RunRecord, *, record_sha256: str = "") -> str:
    """Write the Statement of a run as text; empty where there can be none."""
    if absence(record):
        return ""
    statement = statement_of(record, record_sha256=record_sha256)
    return json.dumps(statement, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def problems(record: RunRecord, *, record_sha256: str, text: str) -> tuple[str, ...]:
    """Say in what a statement is not that of a run; empty when it is.

    Args:
        record: The run.
        record_sha256: Digest of its `run.json` as it lies on the disk.
        text: The statement.
    """
    if missing := absence(record):
        return (f"there can be no statement about this run: {missing}",)
    try:
        found = read_object(text, "the statement")
    except ValueError as error:
        return (str(error),)
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if found.get(key) != wanted:
            return (f"it is no statement of a test result: its {key} is {_shown(found.get(key))}",)
    claimed = _claimed_sha256(found)
    said = []
    if claimed != record_sha256:
        said.append(
            f"{RECORD_FILE} was edited or replaced: its sha256 is {record_sha256}, and the "
            f"statement was made of {one_line(claimed, 80) or 'none'}"
        )
    expected = statement_of(record, record_sha256=claimed or record_sha256)
    differences = list(_differences(expected, found, ""))
    said += differences[:_MOST_DIFFERENCES]
    if differences and not said[0].startswith(RECORD_FILE):
        made_by = one_line(record.environment.get("pytest-vllm", ""), 40) or "an unknown version"
        said.append(f"only another version than the run's, pytest-vllm {made_by}, may put it so")
    if len(differences) > _MOST_DIFFERENCES:
        said.append(f"and {len(differences) - _MOST_DIFFERENCES} more differences")
    return tuple(said)


def _subject(record: RunRecord, subject: Subject) -> Json:
    image = record.launch["image"]
    known = {"asked": image.get("asked"), "imageId": image.get("id")}
    known["architecture"] = image.get("architecture")
    annotations = {key: value for key, value in known.items() if value and isinstance(value, str)}
    return {
        "name": subject.repository,
        "digest": {"sha256": subject.sha256},
        **({"annotations": annotations} if annotations else {}),
    }


def result_of(record: RunRecord) -> str:
    """Return the result that a statement about a run has: PASSED, WARNED or FAILED."""
    if _failed(record):
        return "FAILED"
    return "WARNED" if any(_warned(result) for result in record.results) else "PASSED"


def _failed(record: RunRecord) -> list[str]:
    """Name what rejects; never empty where something does."""
    must = [result for result in record.results if result.check.level is Level.MUST]
    names = [result.name for result in must if result.outcome in _BAD]
    return names or ([VERDICT] if record.verdict.decision is Decision.REJECT else [])


def _warned(result: CheckResult) -> bool:
    """Tell whether a check is passed over although it failed: it is waived, or only a SHOULD."""
    if result.outcome is Outcome.WAIVED:
        return True
    return result.check.level is Level.SHOULD and result.outcome in _BAD


def _run(record: RunRecord, digest: str) -> Json:
    """Return the descriptor of the record, which holds all that the predicate has no field for."""
    rules, server = record.rules, record.server
    unseen = [r.name for r in record.results if r.outcome is Outcome.NOT_RUN]
    annotations: Json = {
        "run": record.run_id,
        "started": record.started,
        "verdict": str(record.verdict.decision),
        "versions": {
            **{name: record.environment[name] for name in _VERSIONS if name in record.environment},
            **({"vllm": server.version} if server is not None and server.version else {}),
        },
        "gpus": [_gpu(gpu) for gpu in mappings(record.gpus.get("gpus"))],
        "notRunTests": unseen,
    }
    if rules is not None:
        annotations["profile"] = {
            "name": rules.profile,
            "complete": rules.complete,
            "pinnedImage": rules.pinned_image,
        }
    return {
        "name": RECORD_FILE,
        "digest": {"sha256": digest},
        "mediaType": "application/json",
        "annotations": annotations,
    }


def _gpu(facts: Mapping[str, Any]) -> Json:
    return {key: facts[key] for key in _OF_A_GPU if isinstance(facts.get(key), str | int)}


def _descriptor(material: Material) -> Json:
    """Return a material as a ResourceDescriptor; one without a digest says why in `of`."""
    annotations = {"kind": material.kind, **({"of": material.of} if material.of else {})}
    descriptor: Json = {"name": material.name, "annotations": annotations}
    if material.sha256:
        descriptor["digest"] = {"sha256": material.sha256}
    commit = _COMMIT.search(material.name)
    if material.kind == "model" and commit is not None:
        descriptor["uri"] = f"pkg:huggingface/{material.name}"
    return descriptor


def _claimed_sha256(statement: Mapping[str, Any]) -> str:
    """Return the digest of `run.json` in a statement that may hold anything."""
    predicate = statement.get("predicate")
    listed = predicate.get("configuration") if isinstance(predicate, dict) else None
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("name") == RECORD_FILE:
            digest = item.get("digest")
            value = digest.get("sha256") if isinstance(digest, dict) else None
            return value if isinstance(value, str) else ""
    return ""


def _differences(expected: Any, found: Any, where: str) -> Iterator[str]:
    """Say where two trees differ, each place once; what is missing is shown as nothing."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys((*expected, *found)):
            place = f"{where}.{key}".lstrip(".")
            if key in expected and key in found:
                yield from _differences(expected[key], found[key], place)
            else:
                what = "is too much in" if key in found else "is missing in"
                yield f"{one_line(place, 120)} {what} the statement"
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield (
                f"{one_line(where, 120)}: the statement has {len(found)} entries, and "
                f"{RECORD_FILE} makes {len(expected)}"
            )
        for index, pair in enumerate(zip(expected, found, strict=False)):
            yield from _differences(*pair, f"{where}[{index}]")
    elif (type(expected), expected) != (type(found), found):
        yield (
            f"{one_line(where, 120)}: the statement says {_shown(found)}, and {RECORD_FILE} makes "
            f"{_shown(expected)}"
        )


def _shown(value: object) -> str:
    return "nothing" if value is None else one_line(json.dumps(value, ensure_ascii=False), 120)
