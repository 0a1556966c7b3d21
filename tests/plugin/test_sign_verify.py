"""`pytest-vllm sign` and `verify`, and the key that signs a run as it ends."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.signing import PASSPHRASE, read_private_key
from pytest_vllm.cli import main
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import Material, Rules, from_json, to_json
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.statement import statement_json
from pytest_vllm.plugin.signing import read_sign_key, signed, unsigned_warning
from pytest_vllm.reports.registry import MAKERS
from tests.adapters.test_ready import make_target
from tests.unit.records import DIGEST, HOSTILE, all_passed, make_record, make_result

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vllm.domain.record import RunRecord

COMPOSE = '{"services": {}}\n'
RUN = "20261122-181930-3fa9c1"
URL = "--vllm-url=http://127.0.0.1:9"
OWN = """
from pytest_vllm import check, suite
pytestmark = suite('own')

@check('own.good')
def test_good():
    '''It MUST be good.'''
    import os
    assert not [name for name in os.environ if 'PASSPHRASE' in name]
"""

Spoil = Callable[["Path"], None] if TYPE_CHECKING else object


def a_record(**changes: object) -> RunRecord:
    compose = Material(
        kind="compose", name="compose.json", sha256=hashlib.sha256(COMPOSE.encode()).hexdigest()
    )
    record = make_record(
        rules=Rules(profile="promote", complete=True, pinned_image=True), materials=(compose,)
    )
    return replace(record, **changes)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A promoted run on the disk, and two keys beside it."""
    folder = tmp_path / RUN
    folder.mkdir()
    lay(folder, a_record())
    for name in ("key", "other"):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        openssl("genpkey", "-algorithm", "ED25519", "-out", str(private))
        openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return folder


def lay(folder: Path, record: RunRecord) -> None:
    (folder / "compose.json").write_text(COMPOSE)
    (folder / "run.json").write_text(to_json(record))
    if text := statement_json(record):
        (folder / "attestation.json").write_text(text)


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out + err


def test_a_run_is_signed_and_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, "sign", run, "--key", run.parent / "key.pem")
    assert (code, text.split(":")[0][:13]) == (0, "signed by key")
    image = f"docker.io/rocm/vllm@{DIGEST}"
    code, text = told(capsys, "verify", run, "--key", run.parent / "key.pub", "--image", image)
    lines = [line.split()[:2] for line in text.splitlines()[1:]]
    assert lines == [
        ["OK", "signature"],
        ["OK", "attestation.dsse.json"],
        ["OK", "compose.json"],
        ["OK", "image"],
        ["OK", "verdict"],
    ]
    assert code == 0


def test_an_unsigned_run_says_what_that_is_worth(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = told(capsys, "verify", run)
    assert code == 0
    assert "NOTE   signature" in text
    assert "nothing proves who made it" in text
    code, text = told(capsys, "verify", run, "--key", run.parent / "key.pub")
    assert code == 1
    assert "WRONG  signature         nobody signed this run" in text


def test_a_signature_that_nobody_looks_at_is_said_to_be_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "sign", run, "--key", run.parent / "key.pem")
    code, text = told(capsys, "verify", run)
    assert code == 0
    assert "not verified, for no --key is named: nothing proves who made it" in text


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_payload(run: Path) -> None:
    envelope = json.loads((run / "attestation.dsse.json").read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"PASSED", b"WARNED")
    envelope["payload"] = base64.b64encode(payload).decode()
    (run / "attestation.dsse.json").write_text(json.dumps(envelope))


def edit_signature(run: Path) -> None:
    envelope = json.loads((run / "attestation.dsse.json").read_text())
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    (run / "attestation.dsse.json").write_text(json.dumps(envelope))


def edit_run(run: Path) -> None:
    edit(run / "run.json", '"model": "HuggingFaceTB', '"model": "SomebodyElse')


def add_a_blank(run: Path) -> None:
    edit(run / "run.json", ' "run_id"', '  "run_id"')


def edit_statement(run: Path) -> None:
    edit(run / "attestation.json", "PASSED", "WARNED")


def edit_compose(run: Path) -> None:
    (run / "compose.json").write_text("{}")


def lose_compose(run: Path) -> None:
    (run / "compose.json").unlink()


def compose_folder(run: Path) -> None:
    lose_compose(run)
    (run / "compose.json").mkdir()


def sign_by_another(run: Path) -> None:
    assert main(["sign", str(run), "--key", str(run.parent / "other.pem"), "--force"]) == 0


def take_that_of_another_run(run: Path) -> None:
    """A good signature of the right key, on another run of the same image."""
    other = run.with_name("other")
    other.mkdir()
    lay(other, a_record(run_id="other"))
    assert main(["sign", str(other), "--key", str(run.parent / "key.pem")]) == 0
    shutil.copy(other / "attestation.dsse.json", run)


def not_a_text(run: Path) -> None:
    (run / "attestation.dsse.json").write_bytes(b"\xff")


@pytest.mark.parametrize(
    ("spoil", "about", "words"),
    [
        (edit_payload, "signature", "was changed after it was signed"),
        (edit_signature, "signature", "was changed after it was signed"),
        (sign_by_another, "signature", "it is not signed by"),
        (not_a_text, "signature", "attestation.dsse.json is not a text"),
        (edit_run, "attestation.dsse.json", "run.json was edited or replaced"),
        (add_a_blank, "attestation.dsse.json", "run.json was edited or replaced"),
        (take_that_of_another_run, "attestation.dsse.json", "run.json was edited or replaced"),
        (edit_statement, "attestation.json", "is not what attestation.dsse.json holds"),
        (edit_compose, "compose.json", "was edited or replaced"),
        (lose_compose, "compose.json", "is missing, and the run rests on it"),
        (compose_folder, "compose.json", "cannot be read: Is a directory"),
    ],
)
def test_what_was_tampered_with_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, about: str, words: str
) -> None:
    told(capsys, "sign", run, "--key", run.parent / "key.pem")
    spoil(run)
    capsys.readouterr()
    code, text = told(capsys, "verify", run, "--key", run.parent / "key.pub")
    assert code == 1
    wrong = [line for line in text.splitlines() if line.startswith("  WRONG")]
    assert any(line.split()[1] == about and words in line for line in wrong), text


@pytest.mark.parametrize("spoil", [edit_run, edit_statement, edit_compose, lose_compose])
def test_evidence_that_was_changed_is_not_signed(
    run: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil
) -> None:
    spoil(run)
    code, text = told(capsys, "sign", run, "--key", run.parent / "key.pem")
    assert code == 1
    assert text.startswith("ERROR: ")
    assert not (run / "attestation.dsse.json").exists()


def test_another_image_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, asked = f"rocm/vllm@{DIGEST} ran", "the run was asked for rocm/vllm:0.32.0"
    for image, said in {
        "sha256:" + "0" * 64: f"{ran}, and sha256:000",
        f"h:1/x@{DIGEST}": f"{ran}, and h:1/x@sha256:",
        "rocm/vllm": f"{asked}, and docker.io/rocm/vllm:latest is meant",
    }.items():
        code, text = told(capsys, "verify", run, "--image", image)
        assert code == 1
        assert f"WRONG  image             {said}" in text
    for image in (DIGEST, "rocm/vllm:0.32.0", f"docker.io/rocm/vllm:0.32.0@{DIGEST}"):
        assert told(capsys, "verify", run, "--image", image)[0] == 0


def test_a_missing_statement_has_a_cure(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "attestation.json").unlink()
    code, text = told(capsys, "verify", run)
    assert code == 1
    assert f"is missing (make it: pytest-vllm report {run} --attestation --output {run}/" in text


def test_a_rejected_run_is_no_pass(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record((*all_passed(), make_result("chat.x.y", Outcome.FAIL, HOSTILE)))
    lay(run, replace(a_record(), results=record.results, verdict=record.verdict))
    code, text = told(capsys, "verify", run)
    assert code == 1
    assert "OK     attestation.json" in text
    assert "WRONG  verdict           REJECT: " in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_verdict_that_its_results_belie_is_wrong_and_not_signed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a statement that fits: whoever edits one can make the other."""
    failed = make_result("chat.x.y", Outcome.FAIL, "no")
    lay(run, a_record(results=(*all_passed(), failed)))
    said = "the record says PROMOTE, and what it holds says otherwise: 1 MUST check "
    code, text = told(capsys, "verify", run)
    assert code == 1
    assert f"WRONG  verdict           {said}" in text
    assert "OK     verdict" not in text
    code, text = told(capsys, "sign", run, "--key", run.parent / "key.pem")
    assert code == 1
    assert f"ERROR: verdict: {said}" in text
    assert not (run / "attestation.dsse.json").exists()


def test_a_reject_is_signed_as_failed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record((*all_passed(), make_result("chat.x.y", Outcome.FAIL, "no")))
    lay(run, replace(a_record(), results=record.results, verdict=record.verdict))
    assert told(capsys, "sign", run, "--key", run.parent / "key.pem")[0] == 0
    envelope = json.loads((run / "attestation.dsse.json").read_text())
    assert json.loads(base64.b64decode(envelope["payload"]))["predicate"]["result"] == "FAILED"


def test_an_open_verdict_has_no_statement_and_no_blame(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = make_record(interrupted="by a signal").verdict
    lay(run, replace(a_record(), verdict=verdict))
    code, text = told(capsys, "verify", run)
    assert code == 75
    assert "NOTE   statement     there is none: the verdict is INCONCLUSIVE" in text
    code, text = told(capsys, "verify", run, "--key", run.parent / "key.pub")
    assert code == 1  # a signature was asked for
    code, text = told(capsys, "sign", run, "--key", run.parent / "key.pem")
    assert code == 1
    assert "there is nothing to sign: the verdict is INCONCLUSIVE" in text


def test_a_signature_is_not_overwritten_unasked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, other = run.parent / "key.pem", run.parent / "other.pem"
    told(capsys, "sign", run, "--key", key)
    before = (run / "attestation.dsse.json").read_text()
    code, text = told(capsys, "sign", run, "--key", other)
    assert code == 4
    assert "attestation.dsse.json is there already\n  fix: add --force" in text
    assert (run / "attestation.dsse.json").read_text() == before
    assert told(capsys, "sign", run, "--key", other, "--force")[0] == 0
    assert told(capsys, "verify", run, "--key", run.parent / "other.pub")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "verify: the following arguments are required: RUN"),
        (["verify", "RUN", "--kye", "x"], "verify has no option --kye; did you mean --key?"),
        (["verify", "RUN", "--key", "no.pem"], "--key: cannot read no.pem: No such file"),
        (["verify", "RUN", "--image", "a:"], "--image: a: names no tag"),
        (["verify", "RUN", "--image", "x@sha256:ab"], "--image: x@sha256:ab names no digest"),
        (["verify", "nowhere"], "there is no run nowhere"),
        (["sign", "RUN"], "sign: the following arguments are required: --key"),
        (["sign", "nowhere", "--key", "KEY"], "there is no run nowhere"),
        (["sign", "RUN", "--key", "PUB"], "is a public key"),
    ],
)
def test_bad_words_are_named(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    meant = {"RUN": run, "KEY": run.parent / "key.pem", "PUB": run.parent / "key.pub"}
    code, text = told(capsys, *(meant.get(word, word) for word in words))
    assert code == 4
    assert text.startswith(f"ERROR: {message}") or message in text.splitlines()[0]
    assert "\n  fix: " in text


@pytest.mark.parametrize("verb", ["sign", "verify"])
def test_help_says_what_the_exit_codes_mean(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, verb, "--help")
    assert code == 0
    assert "exit code: 0" in text


def sign_key_target(path: Path) -> object:
    target = make_target(url="http://127.0.0.1:9")
    setting = Setting(name="sign-key", value=str(path), source="option")
    return replace(target, settings={**target.settings, "sign-key": setting})


def test_the_passphrase_is_taken_out_of_the_environment(run: Path) -> None:
    """So that neither a server nor its log can have it."""
    locked = run.parent / "locked.pem"
    key = str(run.parent / "key.pem")
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", str(locked))
    environ = {PASSPHRASE: "secret", "HOME": "/"}
    target = sign_key_target(locked)
    found = read_sign_key(target, base=run, environ=environ)  # type: ignore[arg-type]
    assert found is not None
    assert environ == {"HOME": "/"}
    assert json.loads(signed(a_record(), found))["signatures"]


def test_a_run_without_a_statement_says_that_nothing_was_signed(run: Path) -> None:
    key = read_private_key(run.parent / "key.pem", option="--vllm-sign-key")
    record = a_record(backend="attach")
    assert signed(record, key) == ""
    (warning,) = unsigned_warning(record, key)
    assert warning.startswith("--vllm-sign-key: nothing was signed: no image was tested")
    assert unsigned_warning(record, None) == ()
    assert unsigned_warning(a_record(), key) == ()


def test_a_bad_key_is_refused_before_anything_starts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own=OWN)
    pytester.makefile(".pem", key="garbage")
    result = pytester.runpytest_subprocess(URL, "test_own.py", "--vllm-sign-key=key.pem")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --vllm-sign-key: *key.pem cannot be used: it is not PEM"])
    result.stderr.fnmatch_lines(["  fix: make one: openssl genpkey *"])
    assert not list(pytester.path.glob(".vllm/*"))


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_run_names_what_it_rests_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    """Each with the digest of the bytes that were read; the passphrase reaches no test."""
    pytester.makepyfile(test_own=OWN)
    pytester.makeconftest("import os\n")
    (pytester.path / "mine.toml").write_text("schema = 1\n")
    monkeypatch.setenv(PASSPHRASE, "secret")
    pytester.runpytest_subprocess(
        *workers, URL, "test_own.py", "--vllm-profile=mine.toml", "--vllm-performance=smoke"
    )
    (written,) = pytester.path.glob(".vllm/*/run.json")
    text = written.read_text()
    record = from_json(text, where="run.json")
    outcomes = {result.check.id: result.outcome for result in record.results}
    assert workers or outcomes == {"own.good": Outcome.PASS}  # workers wait for a server
    assert {name: record.environment.get(name) for name in MAKERS} == {
        name: version(name) for name in MAKERS
    }
    found = {each.name: each for each in record.materials}
    assert set(found) == {"mine.toml", "performance/smoke.toml", "test_own.py", "conftest.py"}
    for name in ("mine.toml", "test_own.py", "conftest.py"):
        digest = hashlib.sha256((pytester.path / name).read_bytes()).hexdigest()
        assert found[name].sha256 == digest
    assert found["conftest.py"].kind == "suite"
