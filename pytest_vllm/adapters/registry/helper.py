"""Asks a credential helper of Docker, a program that keeps logins, for one of them.

Protocol: https://github.com/docker/docker-credential-helpers#development. Docker's SDK speaks it
too, but waits for ever, and shows what a helper that fails has printed.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

HELPER_S = 30.0
"""Seconds that a helper has: it may have to unlock a store or to ask a server."""
_NOT_FOUND = b"credentials not found in native keychain"
_TOKEN = "<token>"  # noqa: S105 - stands in place of a name where the secret is a token


def helper_name(store: str) -> str:
    """Return the program of a helper as Docker's config names it."""
    return f"docker-credential-{store}"


def ask_helper(store: str, server: str, *, limit_s: float = HELPER_S) -> dict[str, Any] | None:
    """Return the login for a registry as Docker's config would hold it, `None` for none.

    Args:
        store: Name of the helper.
        server: The registry, as Docker's config spells it.
        limit_s: Seconds that it has for its answer.

    Raises:
        TargetError: It fails, is silent or says something else; never with what it said, which
            may be a login.
    """
    name = one_line(helper_name(store), 80)
    cure = (
        f"see what it says: echo {server} | {name} get (that shows the login), or take it out of "
        f"credsStore and credHelpers and docker login {server}"
    )
    try:
        with subprocess.Popen(  # noqa: S603 - named by the user's own config
            [helper_name(store), "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                said, _ = process.communicate(server.encode(), timeout=limit_s)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{name} gave no login for {server} within {limit_s:g} s",
            advice=f"unlock its store, or {cure}",
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"{name} cannot be run: {why}", advice=cure) from None
    if process.returncode:
        if said.strip() == _NOT_FOUND:
            return None
        raise TargetError(
            f"{name} failed for {server} with exit code {process.returncode}", advice=cure
        )
    return _login(said, TargetError(f"what {name} says about {server} is no login", advice=cure))


def _login(said: bytes, unread: TargetError) -> dict[str, Any] | None:
    """Read an answer; one with two empty texts is how some helpers say that they know nothing."""
    try:
        answer = json.loads(said)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise unread from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise unread
    if username == _TOKEN:
        return {"identitytoken": secret}
    return {"username": username, "password": secret} if username or secret else None
