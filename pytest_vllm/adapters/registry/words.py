"""What a registry's refusal means, in words, and whose fault it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.text import one_line, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.adapters.registry.credentials import Credential
    from pytest_vllm.domain.reply import Reply, TransportFailure

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 429, 500
_AWAY = ("timeout", "refused", "reset")
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


def unreachable(host: str, failure: TransportFailure, *, secrets: Iterable[str]) -> HostError:
    """Say that a host did not answer, or not as a registry does.

    Args:
        host: Who was asked.
        failure: What became of it.
        secrets: What is not shown, whoever says it.
    """
    said = one_line(redact(str(failure), secrets), 300)
    if _UNTRUSTED in said:
        return HostError(
            f"the certificate of {host} is not trusted: {said}",
            advice="name the file of its authority by SSL_CERT_FILE",
        )
    if failure.kind in _AWAY:
        return HostError(
            f"cannot reach {host}: {said}",
            advice="look at the name, the network and HTTPS_PROXY, then promote again",
        )
    return HostError(
        f"{host} does not answer as a registry does: {said}",
        advice="look at the name and the port, and at what is between here and the registry",
    )


def refusal(  # noqa: PLR0913 - all that is known about a refusal
    reply: Reply,
    *,
    host: str,
    doing: str,
    credential: Credential | None,
    secrets: Iterable[str],
    config: str,
) -> VllmError:
    """Say why a registry or a token server did not do what was asked.

    Args:
        reply: What it answered.
        host: The registry.
        doing: What was asked, such as `read docker.io/library/busybox`.
        credential: Who we were.
        secrets: What is not shown, also where the answer repeats it.
        config: Docker's config file, for the cure.
    """
    where = f"{host} does not let us {doing}"
    login = f"docker login {host} (it writes {config})"
    name = one_line(credential.username) if credential is not None else ""
    status = reply.status
    if status == _UNAUTHORIZED and credential is None:
        why, cure = "it wants a login, and Docker's config has none for it", login
    elif status == _UNAUTHORIZED:
        who = f"the login of {name}" if name else "the token of Docker's config"
        why, cure = f"it refuses {who}, or does not allow it this", login
    elif status == _FORBIDDEN:
        why = f"it is not allowed{f' to {name}' if name else ''}"
        cure = f"have somebody allow it, or use another account: {login}"
    elif status == _NOT_FOUND:
        why = "there is no such repository or image"
        cure = "look at the name; some registries want a repository to be made first"
    elif status == _TOO_MANY:
        wait = reply.headers.get("retry-after", "")
        why = "there were too many requests"
        cure = f"promote again {f'after {wait} s' if wait.isdecimal() else 'later'}"
    elif status >= _SERVER_ERROR:
        why, cure = "it is not well", "promote again later"
    else:
        why = "it takes it for wrong"
        cure = "look at what the registry says; a tag may be immutable, or pushes be off"
    kind = HostError if status == _TOO_MANY or status >= _SERVER_ERROR else TargetError
    return kind(f"{where}: {why} ({status}){_said(reply, secrets)}", advice=cure)


def _said(reply: Reply, secrets: Iterable[str]) -> str:
    """Return the registry's own words, as `: CODE: message`, without secrets."""
    try:
        errors = json.loads(reply.body)["errors"]
        texts = [f"{error.get('code')}: {error.get('message')}" for error in errors]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        texts = []
    line = one_line(redact("; ".join(texts), secrets), 300)
    return f": {line}" if line else ""
