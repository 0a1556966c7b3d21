"""Who we are at a registry comes out of Docker's config, as Docker reads it."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.registry.credentials import Credential, read_credential
from pytest_vllm.adapters.registry.helper import ask_helper
from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "registry.example.com:5000"
HUB_KEY = "https://index.docker.io/v1/"
SECRET = "s3cret:with:colons"  # noqa: S105 - made up


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Write Docker's config."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(config: Any) -> Path:
        file = tmp_path / "config.json"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        return file

    return write


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a credential helper on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def make(name: str, script: str) -> None:
        file = folder / f"docker-credential-{name}"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return make


def auth(name: str = "ci", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def says(name: str, secret: str) -> str:
    """Answer for one host, as a helper does."""
    answer = json.dumps({"ServerURL": "x", "Username": name, "Secret": secret})
    return f"read host; printf '%s' \"$host\" > \"$0.asked\"; printf '%s' '{answer}'"


def test_without_a_config_nobody_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))
    assert read_credential(HOST) is None


@pytest.mark.parametrize(
    "config",
    [
        *({}, {"auths": {}}, {"auths": None}, {"auths": 5}),
        *({"auths": {HOST: entry}} for entry in ({}, None, {"auth": ""}, {"email": 5})),
        {"auths": {HOST: {}}, "credsStore": "", "credHelpers": {HOST: ""}},
    ],
)
def test_a_config_without_a_login_is_none(configure: Callable[[Any], Path], config: Any) -> None:
    configure(config)
    assert read_credential(HOST) is None


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v2/"])
def test_a_login_of_the_config_is_used_and_never_shown(
    configure: Callable[[Any], Path], key: str
) -> None:
    configure({"auths": {key: auth(), "other.example.com": auth("other", "x")}})
    found = read_credential(HOST)
    assert found == Credential(username="ci", password=SECRET)
    assert SECRET not in repr(found)
    assert read_credential("registry.example.com") is None


def test_the_login_of_docker_hub_has_a_key_of_its_own(configure: Callable[[Any], Path]) -> None:
    configure({"auths": {HUB_KEY: auth("hub", "x")}})
    assert read_credential("docker.io") == Credential(username="hub", password="x")  # noqa: S106


def test_an_identity_token_stands_for_name_and_password(configure: Callable[[Any], Path]) -> None:
    configure({"auths": {HOST: {**auth("", ""), "identitytoken": SECRET}}})
    found = read_credential(HOST)
    assert found == Credential(identity_token=SECRET)
    assert SECRET not in repr(found)


def test_name_and_password_may_stand_alone(configure: Callable[[Any], Path]) -> None:
    """As tools that write the file themselves do, and Docker reads."""
    configure({"auths": {HOST: {"username": "ci", "password": SECRET}}})
    assert read_credential(HOST) == Credential(username="ci", password=SECRET)
    configure({"auths": {HOST: {"username": "x", "password": "y", **auth()}}})
    assert read_credential(HOST) == Credential(username="ci", password=SECRET)


@pytest.mark.parametrize(
    "entry",
    [
        *({"auth": "%%%"}, {"auth": "bm9jb2xvbg=="}, {"auth": 7}, {"auth": "//8="}, 5, "x", []),
        *({"username": 5}, {"username": "ci", "password": 5}, {"identitytoken": [SECRET]}),
    ],
)
def test_a_login_that_cannot_be_read_is_an_error_without_it(
    configure: Callable[[Any], Path], entry: Any
) -> None:
    file = configure({"auths": {HOST: entry, "other.example.com": auth()}})
    with pytest.raises(TargetError) as caught:
        read_credential(HOST)
    assert caught.value.message == f"the login of {HOST} in {file} cannot be read"
    assert caught.value.advice.startswith(f"docker login {HOST}")
    assert read_credential("other.example.com") is not None  # what is broken elsewhere is no matter


def test_a_config_in_nobodys_home_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "~nobody-has-this-name/docker")
    with pytest.raises(TargetError, match="in ~nobody-has-this-name/docker: there is no") as caught:
        read_credential(HOST)
    assert "DOCKER_CONFIG" in caught.value.advice


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 5000, "null"])
def test_a_config_that_is_no_json_object_is_an_error(
    configure: Callable[[Any], Path], text: str
) -> None:
    configure(text)
    with pytest.raises(TargetError, match="is no JSON object"):
        read_credential(HOST)


def test_a_helper_of_the_host_goes_before_the_store_and_the_config(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None], tmp_path: Path
) -> None:
    helper("mine", says("robot", SECRET))
    helper("store", says("store", "x"))
    configure({"auths": {HOST: auth("file")}, "credsStore": "store", "credHelpers": {HOST: "mine"}})
    assert read_credential(HOST) == Credential(username="robot", password=SECRET)
    assert (tmp_path / "bin" / "docker-credential-mine.asked").read_text() == HOST
    assert read_credential("docker.io") == Credential(username="store", password="x")  # noqa: S106
    assert (tmp_path / "bin" / "docker-credential-store.asked").read_text() == HUB_KEY


def test_a_helper_may_give_an_identity_token(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None]
) -> None:
    helper("store", says("<token>", SECRET))
    configure({"credsStore": "store"})
    assert read_credential(HOST) == Credential(identity_token=SECRET)


def test_what_a_helper_does_not_know_may_be_in_the_config(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None]
) -> None:
    helper("store", "echo 'credentials not found in native keychain'; exit 1")
    configure({"auths": {HOST: auth()}, "credsStore": "store"})
    assert read_credential(HOST) == Credential(username="ci", password=SECRET)
    configure({"auths": {HOST: {}}, "credsStore": "store"})
    assert read_credential(HOST) is None


def test_a_helper_that_is_missing_is_named(configure: Callable[[Any], Path]) -> None:
    configure({"credsStore": "nowhere-to-be-found"})
    with pytest.raises(TargetError, match="docker-credential-nowhere-to-be-found .* not on PATH"):
        read_credential(HOST)


@pytest.mark.parametrize(
    "script",
    [
        f"echo {SECRET}; exit 3",
        *(f"echo '{answer}{SECRET}'" for answer in ("", "{", "[]", "{}")),
        *(f"echo '{answer}'" for answer in ("{}", "[]", '{"Username": "ci"}', '"x"')),
        f"""echo '{{"Username": 5, "Secret": "{SECRET}"}}'""",
    ],
)
def test_a_helper_that_fails_is_named_without_what_it_said(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None], script: str
) -> None:
    helper("mine", script)
    configure({"credHelpers": {HOST: "mine"}})
    with pytest.raises(TargetError, match="docker-credential-mine") as caught:
        read_credential(HOST)
    assert SECRET not in str(caught.value)
    assert "| docker-credential-mine get (that shows the login), or take it" in caught.value.advice


def test_a_helper_that_knows_nothing_may_say_so_in_two_ways(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None]
) -> None:
    helper("store", says("", ""))
    configure({"auths": {HOST: auth()}, "credsStore": "store"})
    assert read_credential(HOST) == Credential(username="ci", password=SECRET)


def test_a_helper_that_is_no_program_is_named(
    configure: Callable[[Any], Path], helper: Callable[[str, str], None], tmp_path: Path
) -> None:
    helper("mine", "")
    (tmp_path / "bin" / "docker-credential-mine").write_bytes(b"\x7fELF")
    configure({"credsStore": "mine"})
    with pytest.raises(TargetError, match="docker-credential-mine cannot be run: Exec format"):
        read_credential(HOST)
    configure({"credsStore": 5})
    with pytest.raises(TargetError, match="names a credential helper .* that is no text"):
        read_credential(HOST)


def test_a_helper_that_hangs_is_ended(helper: Callable[[str, str], None], tmp_path: Path) -> None:
    """It reads a pipe that nobody writes into, and would for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    helper("mine", f"read word < '{pipe}'")
    with pytest.raises(TargetError, match=r"gave no login for .* within 0.5 s") as caught:
        ask_helper("mine", HOST, limit_s=0.5)
    assert caught.value.advice.startswith("unlock its store")
    with pytest.raises(OSError, match="No such device or address"):  # nobody reads it any more
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
