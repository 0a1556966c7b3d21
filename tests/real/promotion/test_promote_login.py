"""Registries that want to know who promotes: passwords, tokens, TLS."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

from tests.data.token_server import Account, issue_tokens, self_signed
from tests.real.registries import debian_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.real.promotion.accepted import (
        Accepted,
    )

CI = Account(name="ci", password="promote-me", refresh="r3fresh", actions=("pull", "push"))  # noqa: S106
READER = Account(name="reader", password="look-only", refresh="r3ad", actions=("pull",))  # noqa: S106
HTPASSWD = "ci:$2b$04$XFAJRNz1MuOpw7J2qqrQ3.FxGeWE78Ob/l.aARcDtdOgiSITwgPoi\n"
"""The password of CI, as bcrypt has it."""


def login(tmp_path: Path, address: str, name: str, password: str, *, token: str = "") -> None:
    """Write Docker's config, as docker login does."""
    packed = base64.b64encode(f"{name}:{password}".encode()).decode()
    entry = {"auth": packed, **({"identitytoken": token} if token else {})}
    config = {"auths": {address: entry}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))


def test_a_registry_with_passwords_takes_the_login_of_docker(
    kept: Accepted,
    promote: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Basic auth: nobody, a wrong password, the right one, and one out of a credential helper."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    to = f"{kept.repository}:stable"
    with debian_registry(tmp_path, address=kept.address, store=kept.store, auth=auth):
        code, _, err = promote(kept, to)
        assert code == 4
        assert "it wants a login, and Docker's config has none for it (401)" in err
        assert f"fix: docker login {kept.address}" in err
        login(tmp_path, kept.address, CI.name, "wrong-password")
        code, _, err = promote(kept, to)
        assert code == 4
        assert "it refuses the login of ci" in err
        assert "wrong-password" not in err
        login(tmp_path, kept.address, CI.name, CI.password)
        assert promote(kept, to)[0] == 0
        helper = tmp_path / "bin" / "docker-credential-vault"
        helper.parent.mkdir()
        answer = json.dumps({"Username": CI.name, "Secret": CI.password})
        helper.write_text(f"#!/bin/sh\nread host\n[ $host = {kept.address} ] && echo '{answer}'\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", str(helper.parent), prepend=os.pathsep)
        config = {"credHelpers": {kept.address: "vault"}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps(config))
        code, out, _ = promote(kept, f"{kept.address}/release/vllm:1")
        assert code == 0
        assert CI.password not in out


def test_a_registry_with_tokens_gets_one_for_what_is_to_be_done(
    kept: Accepted, promote: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Bearer auth: nobody, somebody who may only read, name and password, an identity token."""
    to = f"{kept.address}/release/vllm"
    with issue_tokens(CI, READER) as tokens:
        auth = tokens.configuration(tmp_path)
        with debian_registry(tmp_path, address=kept.address, store=kept.store, auth=auth):
            code, _, err = promote(kept, f"{to}:1")
            assert code == 4
            assert "it wants a login" in err
            login(tmp_path, kept.address, READER.name, READER.password)
            code, _, err = promote(kept, f"{to}:1")
            assert code == 4
            assert "it refuses the login of reader, or does not allow it this (401)" in err
            assert promote(kept, f"{to}:1", "--print")[0] == 0  # which reads only
            login(tmp_path, kept.address, CI.name, CI.password)
            tokens.asked.clear()
            assert promote(kept, f"{to}:1")[0] == 0
            assert ("GET", ("repository:vllm:pull",)) in tokens.asked
            mounting = ("repository:release/vllm:pull,push", "repository:vllm:pull")
            assert {method for method, _ in tokens.asked} == {"GET"}
            assert any(set(mounting) <= set(scopes) for _, scopes in tokens.asked)
            login(tmp_path, kept.address, "", "", token=CI.refresh)
            tokens.asked.clear()
            code, out, err = promote(kept, f"{to}:2")
            assert code == 0
            assert {method for method, _ in tokens.asked} == {"POST"}
            assert CI.refresh not in out + err
            login(tmp_path, kept.address, "", "", token="wrong-token")  # noqa: S106 - made up
            code, _, err = promote(kept, f"{to}:3")
            assert code == 4
            assert "it refuses the token of Docker's config" in err
            assert "wrong-token" not in err


def test_a_registry_with_tls_is_spoken_with_by_tls(
    kept: Accepted,
    promote: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only here

    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, "127.0.0.1")
    (tmp_path / "tls.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    tls = {"certificate": str(tmp_path / "tls.pem"), "key": str(tmp_path / "tls.key")}
    to = f"{kept.repository}:stable"
    with debian_registry(tmp_path, address=kept.address, store=kept.store, http={"tls": tls}):
        code, _, err = promote(kept, to)
        assert code == 75
        assert f"the certificate of {kept.address} is not trusted" in err
        assert "SSL_CERT_FILE" in err
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
        code, out, _ = promote(kept, to)
        assert code == 0
        assert f"{to} is {kept.digest} now" in out
