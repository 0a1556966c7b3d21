"""`pytest-vllm promote` on hostile evidence: nothing unproven is promoted, nothing foreign is said.

With a registry that this process plays; a real one is asked in `tests/real/promotion`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.registry.manifest import IMAGES
from pytest_vllm.cli import main
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import Material, Rules, WaiverUse, to_json
from pytest_vllm.domain.statement import statement_json
from tests.adapters.scripted_server import Asked, Reply, Script, serving
from tests.unit.records import HOSTILE, all_passed, make_record, make_result

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = {"digest": f"sha256:{'c' * 64}"}
MANIFEST = json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
COMPOSE = "{}\n"
COMMAND = "::error::promoted"
FOREIGN = f"{HOSTILE}\n{COMMAND}\n$(touch PWNED)"
EVERY = tuple(result.check.id for result in all_passed())


class Shelf:
    """A registry with one repository, by what each tag or digest names."""

    def __init__(self) -> None:
        self.held = {DIGEST: MANIFEST, "rc": MANIFEST}
        self.takes = True

    def answer(self, asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if asked.method == "PUT":
            self.held[name] = asked.body if self.takes else b"{}"
            return Reply(status=201)
        data = self.held.get(name)
        kind = {"content-type": IMAGES[1]}
        return Reply(status=404) if data is None else Reply(body=data, headers=kind)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def registry(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with serving(shelf.answer) as script:
        yield script


def lay(folder: Path, host: str, *, asked: str = "", **changes: Any) -> str:
    """Make evidence that nothing speaks against, but for the changes; return its folder."""
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(COMPOSE.encode()).hexdigest()
    names = {"profile": "promote.toml", "suite": "test_x.py", "compose": "compose.json"}
    fields = {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "rules": Rules(profile="promote", complete=True, pinned_image=True, required=EVERY),
        "materials": tuple(
            Material(kind=kind, name=name, sha256=digest) for kind, name in names.items()
        ),
        "launch": {"image": {"asked": asked or f"{host}/vllm:rc", "runs": f"{host}/vllm@{DIGEST}"}},
    }
    record = make_record(**{**fields, **changes})
    (folder / "compose.json").write_text(COMPOSE)
    (folder / "run.json").write_text(to_json(record))
    (folder / "attestation.json").write_text(statement_json(record))
    return str(folder)


def promote(run: str, to: str, *words: str) -> list[str]:
    return ["promote", "--run", run, "--to", to, *words]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    private, public = str(tmp_path / "key.pem"), str(tmp_path / "key.pub")
    for words in (
        ("genpkey", "-algorithm", "ED25519", "-out", private),
        ("pkey", "-in", private, "-pubout", "-out", public),
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return {"private": private, "public": public}


@pytest.mark.parametrize("host", ["[::1]:9", "127.0.0.1:9"])
def test_unsigned_evidence_is_refused_whatever_its_registry_is_called(
    tmp_path: Path, keys: dict[str, str], host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that only one of two grammars knew had no statement, so that none was asked for."""
    run = lay(tmp_path / "run", host)
    assert main(promote(run, f"{host}/vllm:x", "--key", keys["public"])) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "- signature: nobody signed this run" in err
    assert "fix: sign it where it was made: pytest-vllm sign RUN --key KEY.pem" in err
    edited = (tmp_path / "run" / "run.json").read_text().replace('"checks_s": ', '"checks_s": 1')
    (tmp_path / "run" / "run.json").write_text(edited)
    assert main(promote(run, f"{host}/vllm:x")) == 1
    assert "- attestation.json: run.json was edited" in capsys.readouterr().err


def test_who_signed_is_what_the_signature_shows(
    registry: Script, tmp_path: Path, keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, to = lay(tmp_path / "run", registry.address), f"{registry.address}/vllm:"
    assert main(promote(run, f"{to}a")) == 0
    assert "who made it is not verified" in capsys.readouterr().out
    assert main(["sign", run, "--key", keys["private"]]) == 0
    assert main(promote(run, f"{to}b", "--key", keys["public"])) == 0
    assert "; signed by key " in capsys.readouterr().out
    assert main(promote(run, f"{to}c")) == 0
    assert "who made it is not verified" in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["UPPER/x:1", "h/vllm:rc", "ä:1"])
def test_a_name_that_cannot_be_looked_up_again_is_refused(
    registry: Script, tmp_path: Path, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lay(tmp_path / "run", registry.address, asked=asked)
    assert main(promote(run, f"{registry.address}/vllm:x")) == 1
    assert f"- the run was asked for {asked}" in capsys.readouterr().err.replace("'", "")
    assert not [asked for asked in registry.asked if asked.method == "PUT"]


def test_the_image_that_is_meant_may_be_named_in_three_ways(
    registry: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = lay(tmp_path / "run", registry.address), f"{registry.address}/vllm"
    for image in (DIGEST, f"{name}@{DIGEST}", f"{name}:rc", f"{name}:rc@{DIGEST}"):
        assert main(promote(run, f"{name}:x", "--image", image)) == 0
    for image in (f"sha256:{'0' * 64}", f"h:1/vllm@{DIGEST}", f"{name}:other", "vllm:rc"):
        capsys.readouterr()
        assert main(promote(run, f"{name}:y", "--image", image)) == 1
        assert "- --image: " in capsys.readouterr().err
    assert main(promote(run, f"{name}:y", "--image", "a b")) == 4
    assert not [asked for asked in registry.asked if asked.path.endswith("/y") and asked.body]


def test_what_a_record_says_is_no_command_and_no_line_of_its_own(
    registry: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for a shell that reads `--print`, nor for a CI that reads the log, nor a terminal."""
    results = (*all_passed(), make_result("own.x.y", Outcome.WAIVED, "no", case=FOREIGN))
    waiver = WaiverUse(
        check="own.x.y",
        reason=FOREIGN,
        link=FOREIGN,
        expires="2999-01-01",
        waived=(results[-1].name,),
    )
    rules = Rules(profile=FOREIGN, complete=True, pinned_image=True, required=EVERY)
    run = lay(tmp_path / "run", registry.address, results=results, rules=rules, waivers=(waiver,))
    to, source = f"{registry.address}/vllm:x", f"{registry.address}/vllm@{DIGEST}"
    assert main(promote(run, to, "--print")) == 0
    out, err = capsys.readouterr()
    (command,) = [line for line in out.splitlines() if not line.startswith("#")]
    assert command.startswith("skopeo copy ")
    assert command.endswith(f" docker://{source} docker://{to}")
    assert err == ""
    said = out
    assert main(promote(run, to)) == 0
    said += "".join(capsys.readouterr())
    for changes in (
        {"rules": Rules(profile=FOREIGN)},
        {"waivers": (WaiverUse(check=FOREIGN, reason="", link=FOREIGN, expires=FOREIGN),)},
        {"started": FOREIGN, "backend": FOREIGN},
        {"run_id": FOREIGN},
        {"launch": {"image": {"asked": FOREIGN, "runs": f"h:1/x@{DIGEST}"}}},
    ):
        run = lay(tmp_path / "run", registry.address, **changes)
        assert main(promote(run, to)) in (1, 4)
        main(["verify", run])
        main(["runs", "show", run])
        said += "".join(capsys.readouterr())
    odd = tmp_path / f"a\n{COMMAND}\x1b[31m"
    odd.mkdir()
    (odd / "run.json").write_text("{}")
    assert main(["verify", str(odd)]) == 4
    said += capsys.readouterr().err
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert not [line for line in said.splitlines() if line.lstrip().startswith(("::", "$("))]


def test_suites_that_are_not_those_of_the_version_that_ran_are_refused(
    registry: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for installed in (version("pytest-vllm"), "0.0.0"):
        run = lay(
            tmp_path / installed,
            registry.address,
            environment={"pytest-vllm": installed},
            materials=(Material(kind="suite", name="suites/test_chat.py", sha256="0" * 64),),
        )
        assert main(promote(run, f"{registry.address}/vllm:x")) == 1
        said.append(capsys.readouterr().err)
    mine, other = said
    assert "which is the version that ran: suites/test_chat.py" in mine
    assert "suites/test_chat.py" not in other


def test_what_a_registry_does_wrong_is_not_the_evidence(
    registry: Script, shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.takes = False
    run = lay(tmp_path / "run", registry.address)
    assert main(promote(run, f"{registry.address}/vllm:x")) == 75
    out, err = capsys.readouterr()
    assert out == f"before     {registry.address}/vllm:x was nothing\n"  # and nothing is accepted
    assert "somebody else may have written the same tag" in err


def test_what_the_tag_was_is_told_before_it_is_written(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A registry writes, and fails when it is read back; the second promotion cannot know it."""
    old = b'{"old": 1}'
    shelf.held["stable"] = old
    told: list[str] = []
    ill = True

    def answer(asked: Asked) -> Reply:
        if asked.method == "PUT":
            told.append(capsys.readouterr().out)
        broken = ill and told and asked.path.endswith("/stable") and asked.method == "GET"
        return Reply(status=503) if broken else shelf.answer(asked)

    with serving(answer) as registry:
        name = f"{registry.address}/vllm"
        run = lay(tmp_path / "run", registry.address)
        assert main(promote(run, f"{name}:stable")) == 75
        was = f"sha256:{hashlib.sha256(old).hexdigest()}"
        back = f"crane tag {name}@{was} stable puts it back"
        assert told == [f"before     {name}:stable was {was}; {back}\n"]
        assert f"ERROR: {name}:stable was written and cannot be" in capsys.readouterr().err
        ill = False
        assert main(promote(run, f"{name}:stable")) == 0
        out = capsys.readouterr().out
        assert "already; nothing was changed; if an earlier promotion wrote it, the output" in out
        assert len(told) == 1


def test_commands_are_printed_for_a_repository_that_is_not_shown(
    registry: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some registries say only to who may write there that it is not there yet."""
    body = json.dumps({"errors": [{"code": "NO", "message": f"login\n{COMMAND}"}]}).encode()
    with serving(lambda _: Reply(status=401, body=body)) as second:
        to = f"{second.address}/new:x"
        run = lay(tmp_path / "run", registry.address)
        assert main(promote(run, to, "--print")) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert f"\n# before   not known: {second.address} does not let us read {to}: " in out
        (command,) = [line for line in out.splitlines() if not line.startswith("#")]
        assert command.endswith(f" docker://{registry.address}/vllm@{DIGEST} docker://{to}")
        assert main(promote(run, to)) == 4  # what is to be written has to be seen


@pytest.mark.parametrize("status", [401, 403])
def test_a_repository_that_is_closed_is_not_the_only_one_to_look_into(
    registry: Script, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is on another registry too, in one of the repositories that the engine knows."""
    shelves = {"kept": Shelf(), "new": Shelf()}
    shelves["new"].held = {}

    def answer(asked: Asked) -> Reply:
        if asked.method == "POST":
            return Reply(status=201)  # the blob is shared
        shelf = shelves.get(asked.path.split("/")[2])
        return shelf.answer(asked) if shelf else Reply(status=status)

    with serving(answer) as second:
        names = [f"{second.address}/{path}@{DIGEST}" for path in ("closed", "kept")]
        image = {
            "asked": f"{registry.address}/vllm:rc",
            "runs": f"{registry.address}/vllm@{DIGEST}",
        }
        launch = {"image": {**image, "repo_digests": names}}
        run = lay(tmp_path / "run", registry.address, launch=launch)
        assert main(promote(run, f"{second.address}/new:x")) == 0
        assert shelves["new"].held == {"x": MANIFEST}
        shelves["kept"].held = shelves["new"].held = {}
        capsys.readouterr()
        assert main(promote(run, f"{second.address}/new:x")) == 4
        assert f"{second.address} does not let us read {names[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere"),
        ("HTTPS_PROXY", "ftp://x"),
        ("DOCKER_CONFIG", "~no-one-at-all"),
    ],
)
def test_a_variable_that_cannot_be_used_is_not_the_evidence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv(name, value)
    host = "registry.invalid"
    assert main(promote(lay(tmp_path / "run", host), f"{host}/vllm:x")) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err


def test_what_the_terminal_cannot_show_is_shown_as_its_code(tmp_path: Path) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    run = lay(tmp_path / "run", "127.0.0.1:9", run_id="x", backend="ä")
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["verify", run]) == 1
        assert main(promote("\udc80ä", "x:y")) == 4
        assert main(["ä\udc80"]) == 4
    out.flush()
    assert b"backend \\xe4" in out.buffer.getvalue()  # type: ignore[attr-defined]


def wait_for_sleep(pid: int) -> None:
    """Wait until the main thread of a process waits for something, twice in a row."""
    seen = 0
    while seen < 2:
        time.sleep(0.05)
        state = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        seen = seen + 1 if state == "S" else 0


def test_ctrl_c_ends_a_verb_in_one_line(tmp_path: Path) -> None:
    """While it waits for a registry that says nothing."""
    code = "import sys; from pytest_vllm.cli import main; sys.exit(main(sys.argv[1:]))"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        words = promote(lay(tmp_path / "run", host), f"{host}/vllm:x")
        child = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4096).startswith(b"GET /v2/")
            wait_for_sleep(child.pid)  # it waits for the answer, and is not in the middle of a call
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "ERROR: interrupted\n")
