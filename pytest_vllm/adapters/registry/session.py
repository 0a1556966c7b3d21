"""Requests to one registry, with whatever login it asks for.

Flow: https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/. Name and password
go to the registry and to the token server that it names, and nowhere else: a redirect is followed
without them, and where it leads nobody is told who we are. Like Docker it speaks plain HTTP with
this machine only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

from pytest_vllm.adapters.http import Transport, is_loopback
from pytest_vllm.adapters.registry.challenge import read_challenges
from pytest_vllm.adapters.registry.credentials import config_file
from pytest_vllm.adapters.registry.words import refusal, unreachable
from pytest_vllm.domain.errors import HostError, TargetError, VllmError
from pytest_vllm.domain.reply import TransportFailure
from pytest_vllm.domain.text import one_line, redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.registry.challenge import Challenge
    from pytest_vllm.adapters.registry.credentials import Credential
    from pytest_vllm.domain.reply import Reply

TIMEOUT_S = 60.0
MAX_BYTES = 4 * 2**20
"""What the distribution spec has a registry take for a manifest."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_UNAUTHORIZED, _BAD_REQUEST = 401, 400
_CLIENT = "pytest-vllm"


class RegistrySession:
    """Speaks HTTP with a registry.

    Args:
        host: Host that speaks the registry API, with its port.
        credential: Who we are, `None` for nobody.
        timeout_s: Seconds that one request may take.
    """

    def __init__(
        self, host: str, *, credential: Credential | None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.host = host
        self.credential = credential
        self._secrets = [] if credential is None else [*credential.secrets]
        self._timeout_s = timeout_s
        self._transports: dict[str, Transport] = {}
        self._authorizations: dict[tuple[str, ...], str] = {}
        self._base = ""

    def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        scopes: Sequence[str],
        doing: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, with a login where the registry asks for one.

        Args:
            method: HTTP method.
            path: Path and query, with a leading slash.
            scopes: What a token has to allow, such as `repository:rocm/vllm:pull`.
            doing: What it is for, for messages.
            content: Body.
            headers: More headers.

        Returns:
            The reply of any status but 401.

        Raises:
            HostError: The registry cannot be reached.
            TargetError: It does not take the login, or redirects to who wants one.
        """
        key = tuple(scopes)
        authorization = self._authorizations.get(key, "")
        reply = self._once(method, path, content, headers, authorization)
        if reply.status == _UNAUTHORIZED:
            authorization = self._authorize(reply, scopes, doing)
            reply = self._once(method, path, content, headers, authorization)
            if reply.status == _UNAUTHORIZED:
                raise self.refusal(reply, doing)
            self._authorizations[key] = authorization
        return reply

    def refusal(self, reply: Reply, doing: str) -> VllmError:
        """Say why a request was refused."""
        return refusal(
            reply,
            host=self.host,
            doing=doing,
            credential=self.credential,
            secrets=self._secrets,
            config=str(config_file()),
        )

    def shown(self, text: str, limit: int = 100) -> str:
        """Return what a registry says on one line, without what it was told or gave in secret.

        Args:
            text: Its words.
            limit: Characters that are shown.
        """
        return one_line(redact(text, self._secrets), limit)

    def close(self) -> None:
        """Release all connections."""
        for transport in self._transports.values():
            transport.close()

    def __enter__(self) -> Self:
        """Give itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        authorization: str,
    ) -> Reply:
        url = self._base_url() + path
        for _ in range(_MOST_REDIRECTS + 1):
            mine = _origin(url) == self._base_url()
            known = {"authorization": authorization} if authorization and mine else {}
            reply = self._raw(method, url, content, {**(headers or {}), **known})
            if reply.status == _UNAUTHORIZED and not mine:
                raise self._stranger(url)
            target = reply.headers.get("location", "")
            if method != "GET" or reply.status not in _REDIRECTS or not target:
                return reply
            url = self._allowed(target, "redirects to", base=url)
        raise HostError(
            f"{self.host} redirects more than {_MOST_REDIRECTS} times",
            advice="look at the registry with curl -L",
        )

    def _stranger(self, url: str) -> TargetError:
        """Refuse to log in where the registry did not: anybody could be behind a redirect."""
        return TargetError(
            f"{self.host} redirects to {self.shown(urlsplit(url).netloc)}, which wants a login "
            "of its own, and the login of a registry is for itself and its token server",
            advice="if that is the registry that you mean, run and promote by its own name",
        )

    def _raw(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        origin = _origin(url)
        try:
            return self._transport(origin).send(
                method, url.removeprefix(origin) or "/", content=content, headers=headers
            )
        except TransportFailure as failure:
            host = self.shown(urlsplit(url).netloc)
            raise unreachable(host, failure, secrets=self._secrets) from None

    def _base_url(self) -> str:
        """Return scheme and host: TLS, on this machine also without."""
        if not self._base:
            self._base = f"https://{self.host}"
            if is_loopback(self._base) and self._speaks_plainly():
                self._base = f"http://{self.host}"
        return self._base

    def _speaks_plainly(self) -> bool:
        """Ask a registry on this machine whether it does without TLS; says nothing of us.

        Raises:
            HostError: Nobody listens, or says anything in time.
        """
        try:
            reply = self._transport(f"http://{self.host}").send("GET", "/v2/")
        except TransportFailure as failure:
            if failure.kind in ("refused", "timeout"):
                raise unreachable(self.host, failure, secrets=self._secrets) from None
            return False
        return reply.status != _BAD_REQUEST

    def _transport(self, origin: str) -> Transport:
        """Return what speaks with an origin; it takes long to make, so each is made once."""
        if origin not in self._transports:
            self._transports[origin] = Transport(
                origin, api_key=None, timeout_s=self._timeout_s, max_body_bytes=MAX_BYTES
            )
        return self._transports[origin]

    def _allowed(self, named: str, verb: str, *, base: str = "") -> str:
        """Return a URL that a registry named, maybe from another one, if it may be asked.

        Raises:
            TargetError: It is none, or lies in the open outside of this machine.
        """
        try:
            url = urljoin(base, named)
            parts = urlsplit(url)
            fine = bool(parts.hostname) and (
                parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))
            )
        except ValueError:
            url, fine = named, False
        if not fine:
            raise TargetError(
                f"{self.host} {verb} {self.shown(url, 200)}, which is no https URL",
                advice="have the registry name one; nothing is sent in the open",
            )
        return url

    def _authorize(self, reply: Reply, scopes: Sequence[str], doing: str) -> str:
        """Return the header that answers a challenge."""
        challenges = {
            found.scheme: found
            for found in reversed(read_challenges(reply.headers.get("www-authenticate", "")))
        }
        if "bearer" in challenges:
            return f"Bearer {self._token(challenges['bearer'], scopes, doing)}"
        if "basic" in challenges and self.credential is not None and self.credential.username:
            return f"Basic {self.credential.packed}"
        if challenges and "basic" not in challenges:
            raise TargetError(
                f"{self.host} wants a login by {', '.join(challenges)}, which is not known here",
                advice="promote with what --print prints",
            )
        raise self.refusal(reply, doing)

    def _token(self, challenge: Challenge, scopes: Sequence[str], doing: str) -> str:
        realm = self._allowed(challenge.values.get("realm", ""), "names the token server")
        asked = challenge.values.get("scope", "").split()
        wanted = list(dict.fromkeys([*asked, *scopes]))
        service = challenge.values.get("service", "")
        credential = self.credential
        if credential is not None and credential.identity_token:
            reply = self._by_identity(realm, service, wanted, credential)
        else:
            fields = [("service", service), *(("scope", scope) for scope in wanted)]
            joint = "&" if urlsplit(realm).query else "?"
            url = f"{realm}{joint}{urlencode([item for item in fields if item[1]])}"
            known = {} if credential is None else {"authorization": f"Basic {credential.packed}"}
            reply = self._raw("GET", url, None, known)
        if reply.status // 100 != 2:  # noqa: PLR2004 - HTTP
            raise self.refusal(reply, doing)
        document = _object(reply)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            server = self.shown(urlsplit(realm).netloc)
            raise HostError(
                f"the token server of {self.host} gives no token",
                advice=f"look at {server}; docker pull asks the same one",
            )
        self._secrets.append(token)
        return token

    def _by_identity(
        self, realm: str, service: str, scopes: Sequence[str], credential: Credential
    ) -> Reply:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": credential.identity_token,
        }
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self._raw("POST", realm, urlencode(form).encode(), kind)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _object(reply: Reply) -> dict[str, Any]:
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}
