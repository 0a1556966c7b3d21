"""Evidence that is accepted, and then edited by who can make statement and signature anew.

The fuzz of broken runs ends in refusals; this one starts where `promote` says yes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.signing import PrivateKey, read_private_key
from pytest_vllm.domain.checks import CheckResult, Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.record import Material, Rules, from_json, to_json
from pytest_vllm.domain.statement import ENVELOPE_FILE, STATEMENT_FILE, statement_json
from pytest_vllm.domain.verdict import Decision, Verdict
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.materials import installed_suites
from pytest_vllm.plugin.options import SUITES
from tests.adapters.scripted_server import Asked, Reply, serving
from tests.unit.fuzz import WHOLE, Edit, apply, edits, paths, tries
from tests.unit.test_fuzz_verbs import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "20260101-000000-aaaaaa"
HOST = "registry.invalid:5000"
"""Stands in the record for the registry's address, which is known when it is up."""
COMPOSE = "{}\n"
KIND = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": {}, "layers": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


def accepted_document() -> dict[str, Any]:
    """Return a record that nothing speaks against."""
    checks = catalogue(SUITES)
    image = f"{HOST}/vllm@{DIGEST}"
    whole = from_json(json.dumps(WHOLE), where="run.json")
    record = replace(
        whole,
        run_id=RUN,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        backend="docker",
        failure=None,
        verdict=Verdict(decision=Decision.PROMOTE, reasons=("all passed",)),
        launch={"image": {"asked": f"{HOST}/vllm:rc", "runs": image, "repo_digests": [image]}},
        rules=Rules(
            profile="promote",
            complete=True,
            pinned_image=True,
            required=tuple(c.id for c in checks if c.level is Level.MUST and not c.optional),
        ),
        results=tuple(CheckResult(check=check, outcome=Outcome.PASS) for check in checks),
        waivers=(),
        deselected=(),
        comparison=None,
        performance={},
        gpu_samples={},
        environment={"pytest-vllm": version("pytest-vllm")},
        materials=(
            *(
                Material(kind=kind, name=name, sha256=hashlib.sha256(COMPOSE.encode()).hexdigest())
                for kind, name in (
                    ("profile", "profiles/promote.toml"),
                    ("compose", "compose.json"),
                )
            ),
            *(
                Material(kind="suite", name=name, sha256=digest)
                for name, digest in installed_suites().items()
            ),
        ),
    )
    document: dict[str, Any] = json.loads(to_json(record))
    return document


ACCEPTED = accepted_document()
SHORT = {**ACCEPTED, "results": ACCEPTED["results"][:1], "rules": {**ACCEPTED["rules"]}}
SHORT["rules"]["required"] = SHORT["rules"]["required"][:1]
PARTS = ("run_id", "started", "backend", "failure", "verdict", "launch", "rules", "results")
PARTS += ("waivers", "materials", "environment", "schema", "deselected", "comparison")
RELEVANT = [path for path in paths(SHORT) if path[0] in PARTS]
"""What the verbs look at; of many that are alike, the first."""
TO, ELSEWHERE = ("--to", "HOST/vllm:stable"), ("--to", "HOST/vllm:never-put")
WORDS = [
    ("verify", RUN),
    ("verify", RUN, "--key", "KEY.pub"),
    ("verify", RUN, "--key", "KEY.pub", "--image", "HOST/vllm:rc"),
    ("sign", RUN, "--key", "KEY", "--force"),
    ("promote", "--run", RUN, *ELSEWHERE, "--print"),
    ("promote", "--run", RUN, *ELSEWHERE, "--print", "--key", "KEY.pub"),
    ("promote", "--run", RUN, *TO, "--key", "KEY.pub", "--image", "HOST/vllm:rc"),
]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    """A pair of keys, the public one beside the other."""
    file = tmp_path_factory.mktemp("keys") / "key.pem"
    make = ("openssl", "genpkey", "-algorithm", "ED25519", "-out", str(file))
    show = ("openssl", "pkey", "-in", str(file), "-pubout", "-out", f"{file}.pub")
    for words in (make, show):
        subprocess.run(words, check=True, capture_output=True)
    return read_private_key(file, option="--key")


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """A registry that has the image, under its digest, the tag of the run and what was put."""
    tags = {DIGEST, "rc"}

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if asked.method == "PUT":
            tags.add(name)
            return Reply(status=201)
        if name not in tags:
            return Reply(status=404)
        headers = {"content-type": KIND, "docker-content-digest": DIGEST}
        return Reply(body=MANIFEST, headers=headers)

    with serving(answer) as script:
        yield script.address


def lay(root: Path, text: str, key: PrivateKey) -> None:
    """Write the run as somebody would who has the key: statement and envelope fit."""
    folder = root / RUN
    folder.mkdir()
    (folder / "run.json").write_text(text)
    (folder / "compose.json").write_text(COMPOSE)
    try:
        record = from_json(text, where="run.json")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        statement = statement_json(record, record_sha256=sha256)
    except TargetError:
        return
    if statement:
        (folder / STATEMENT_FILE).write_text(statement)
        (folder / ENVELOPE_FILE).write_text(key.sign(statement))


def told(
    root: Path, words: tuple[str, ...], text: str, key: PrivateKey, registry: str
) -> tuple[int, str, str]:
    """Run a verb on the evidence; return exit code, output and complaints."""
    lay(root, text.replace(HOST, registry), key)
    meant = [word.replace("HOST", registry).replace("KEY", key.name) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_VLLM_ARTIFACTS", str(root))
        patch.setenv("DOCKER_CONFIG", str(root / "nowhere"))
        return run(meant)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_good_evidence_is_accepted(
    tmp_path: Path, words: tuple[str, ...], key: PrivateKey, registry: str
) -> None:
    """So that the fuzz below starts from what every rule lets through."""
    code, out, err = told(tmp_path, words, json.dumps(ACCEPTED), key, registry)
    assert (code, err) == (0, ""), out + err


@tries(40)
@given(edits(RELEVANT), st.sampled_from(WORDS))
def test_edited_evidence_is_answered_and_nothing_of_it_is_a_command(
    tmp_path_factory: pytest.TempPathFactory,
    key: PrivateKey,
    registry: str,
    changes: list[Edit],
    words: tuple[str, ...],
) -> None:
    root, text = tmp_path_factory.mktemp("runs"), apply(ACCEPTED, changes)
    code, out, err = told(root, words, text, key, registry)
    assert code in (0, 1, 4, 75)
    assert "Traceback" not in out + err
    assert "this is a bug" not in out + err
    lines = [*out.splitlines(), *err.splitlines()]
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip().startswith("::") for line in lines)
    if code == 0 and "--print" in words:
        commands = [line for line in out.splitlines() if not line.startswith("#")]
        (command,) = commands
        image, to = f"{registry}/vllm@{DIGEST}", f"{registry}/vllm:never-put"
        assert command.startswith("skopeo copy --all --preserve-digests ")
        assert command.endswith(f" docker://{image} docker://{to}")
    if code == 0 and words[0] == "promote":
        assert json.loads(text)["verdict"]["decision"] == "PROMOTE"
