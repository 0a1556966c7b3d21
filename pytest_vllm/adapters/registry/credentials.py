"""Who we are at a registry: Docker's config, and the credential helpers that it names."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_vllm.adapters.registry.helper import ask_helper, helper_name
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.repository import HUB
from pytest_vllm.domain.text import one_line

_TEXTS = ("auth", "username", "password", "identitytoken")
_HUB_KEY = "https://index.docker.io/v1/"
"""Under which Docker keeps the login of Docker Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A login; what is secret of it is never shown.

    Attributes:
        username: Name, empty for a token.
        password: Password.
        identity_token: What is given to a token server instead of name and password.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def packed(self) -> str:
        """Name and password as the scheme Basic sends them."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown, in every form in which it is sent."""
        return tuple(filter(None, (self.password, self.identity_token, self.packed)))


def config_file() -> Path:
    """Return Docker's config, whether it is there or not: `DOCKER_CONFIG`, else `~/.docker`.

    Raises:
        TargetError: It begins with a home folder that nobody has.
    """
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    try:
        return Path(folder).expanduser() / "config.json"
    except RuntimeError:
        raise TargetError(
            f"Docker's config cannot be looked for in {one_line(folder, 200)}: there is no such "
            "home folder",
            advice="name its folder by DOCKER_CONFIG, without ~",
        ) from None


def read_credential(host: str) -> Credential | None:
    """Find the login for a registry, `None` when Docker has none for it.

    As Docker does: `credHelpers` for this host, else `credsStore`, else `auths`.

    Args:
        host: Registry with its port; `docker.io` for Docker Hub.

    Raises:
        TargetError: The config cannot be read, or a credential helper is missing or fails.
    """
    from docker import auth  # noqa: PLC0415 - slow to import, and only promotion needs it

    file = config_file()
    config = _read(file)
    key = _HUB_KEY if host == HUB else host
    helpers = config.get("credHelpers")
    store = (helpers.get(key) if isinstance(helpers, dict) else None) or config.get("credsStore")
    if store:
        if not isinstance(store, str):
            raise TargetError(
                f"{file} names a credential helper for {host} that is no text",
                advice="mend credsStore and credHelpers, or name another folder by DOCKER_CONFIG",
            )
        _require_helper(store, file, host)
        answer = ask_helper(store, key)
        if answer is not None:
            return _credential(answer, f"what {helper_name(store)} says about {host}", host)
    auths = config.get("auths")
    entries = auths if isinstance(auths, dict) else {}
    mine = [entry for name, entry in entries.items() if auth.resolve_index_name(name) == host]
    where = f"the login of {host} in {file}"
    return next(filter(None, (_credential(entry, where, host) for entry in mine)), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TargetError(
            f"cannot read Docker's config {file}: {error.strerror}",
            advice="make it readable, or name another folder by DOCKER_CONFIG",
        ) from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise TargetError(
            f"Docker's config {file} is no JSON object",
            advice="mend it, or name another folder by DOCKER_CONFIG",
        )
    return config


def _require_helper(store: str, file: Path, host: str) -> None:
    if shutil.which(helper_name(store)) is None:
        raise TargetError(
            f"{file} names the credential helper {one_line(helper_name(store), 80)} for {host}, "
            "which is not on PATH",
            advice=f"install it, or take it out of credsStore and credHelpers and docker login "
            f"{host}",
        )


def _credential(entry: Any, where: str, host: str) -> Credential | None:
    """Read a login as Docker keeps it: `auth` is name and password, which may stand alone, too.

    https://github.com/docker/cli/blob/master/cli/config/types/authconfig.go

    Raises:
        TargetError: It is none; never with what was read, which is a login.
    """
    unread = TargetError(f"{where} cannot be read", advice=f"docker login {host} writes it again")
    texts = {} if entry is None else entry
    if not isinstance(texts, dict) or not all(
        isinstance(texts.get(key, ""), str) for key in _TEXTS
    ):
        raise unread
    if token := texts.get("identitytoken"):
        return Credential(identity_token=token)
    username, password = texts.get("username", ""), texts.get("password", "")
    if packed := texts.get("auth"):
        try:
            text = base64.b64decode(packed, validate=True).decode()
        except ValueError:
            raise unread from None
        username, colon, password = text.partition(":")
        if not colon:
            raise unread
        password = password.rstrip("\0")  # as Docker does
    return Credential(username=username, password=password) if username else None
