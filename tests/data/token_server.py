"""A token server for docker-registry: small, honest, and strict about who may do what.

It speaks both flows that Docker does: GET with name and password, and POST with a refresh token
(https://distribution.github.io/distribution/spec/auth/token/, .../oauth/). Its tokens are JWTs as
docker-registry 2.8 verifies them (.../jwt/): ES256, with the certificate in the header.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SERVICE = "test-registry"
ISSUER = "test-issuer"
_LIFE_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody who may ask for tokens.

    Attributes:
        name: Name.
        password: Password.
        refresh: Refresh token.
        actions: What they may do in every repository.
    """

    name: str
    password: str
    refresh: str
    actions: tuple[str, ...]


@dataclass(kw_only=True)
class TokenServer:
    """Issues tokens.

    Attributes:
        accounts: Who may ask.
        asked: Method and scopes of each request that was granted anything.
        realm: Its URL.
    """

    accounts: tuple[Account, ...]
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    realm: str = ""
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.certificate = self_signed(self.key)

    def configuration(self, folder: Path) -> dict[str, Any]:
        """Write the certificate; return what docker-registry needs to know."""
        file = folder / "issuer.pem"
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(file),
            }
        }

    def grant(self, account: Account, method: str, scopes: list[str]) -> str:
        """Return a token for as much of the scopes as an account may have."""
        self.asked.append((method, tuple(scopes)))
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = [action for action in actions.split(",") if action in account.actions]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(dt.datetime.now(dt.UTC).timestamp())
        return self._sign(
            {
                "iss": ISSUER,
                "sub": account.name,
                "aud": SERVICE,
                "iat": now - 1,
                "nbf": now - 1,
                "exp": now + _LIFE_S,
                "jti": uuid.uuid4().hex,
                "access": access,
            }
        )

    def _sign(self, claims: Mapping[str, Any]) -> str:
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        body = ".".join(_packed(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self.key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{body}.{_packed(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def self_signed(key: ec.EllipticCurvePrivateKey, *addresses: str) -> x509.Certificate:
    """Return a certificate of a key for addresses such as 127.0.0.1."""
    from ipaddress import ip_address  # noqa: PLC0415 - only here

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pytest-vllm test")])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if addresses:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(a)) for a in addresses])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256())


class _Handler(BaseHTTPRequestHandler):
    """Answers `/token`."""

    protocol_version = "HTTP/1.1"
    tokens: TokenServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        fields = parse_qs(urlsplit(self.path).query)
        kind, _, packed = (self.headers.get("authorization") or "").partition(" ")
        pair = base64.b64decode(packed).decode() if kind == "Basic" else ""
        known = [a for a in self.tokens.accounts if f"{a.name}:{a.password}" == pair]
        self._answer(known, fields, fields.get("scope", []), "token")

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        fields = parse_qs(self.rfile.read(length).decode())
        fine = fields.get("grant_type") == ["refresh_token"] and fields.get("client_id")
        token = fields.get("refresh_token", [""])[0]
        known = [a for a in self.tokens.accounts if a.refresh == token] if fine else []
        self._answer(known, fields, fields.get("scope", [""])[0].split(), "access_token")

    def _answer(
        self, known: list[Account], fields: dict[str, list[str]], scopes: list[str], key: str
    ) -> None:
        if not known or fields.get("service") != [SERVICE]:
            body, status = {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}, 401
        else:
            body, status = {key: self.tokens.grant(known[0], self.command, scopes)}, 200
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def issue_tokens(*accounts: Account) -> Iterator[TokenServer]:
    """Run a token server for these accounts."""
    tokens = TokenServer(accounts=accounts)
    handler = type("Handler", (_Handler,), {"tokens": tokens})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    tokens.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
