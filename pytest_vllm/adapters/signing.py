"""Signs statements and verifies signatures: DSSE envelopes by securesystemslib.

https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.json_object import read_object
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PASSPHRASE = "PYTEST_VLLM_SIGN_PASSPHRASE"  # noqa: S105 - the name of a variable
_INSTALL = "pip install 'pytest-vllm[signing]'"
_LARGEST_KEY = 65_536
_ID = 16
"""Digits of a key's ID that are shown."""
_MAKE = (
    "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem "
    "(ECDSA, Ed25519 and RSA keys can be used)"
)
_SIGN = "sign the run: pytest-vllm sign RUN --key KEY.pem"
_NAME_PUBLIC = (
    "name the public key of whoever signs: ECDSA (P-256, P-384, P-521), Ed25519 or RSA, as openssl "
    "pkey -in key.pem -pubout writes it"
)
_WEAKEST_RSA = 2048
_KIND = re.compile(r"([A-Za-z0-9]+?)(?:Public|Private)Key\b")
"""In the words of the library, which names its own class."""


class SignatureError(VllmError):
    """An envelope is not signed by the named key, or is none."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies a signature.

    Attributes:
        key: As securesystemslib has it.
        name: File that it was read from.
    """

    key: SSlibKey
    name: str

    @property
    def id(self) -> str:
        """The ID by which securesystemslib names the key in a signature."""
        return str(self.key.keyid)


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """What signs statements. Its content is in no text that it gives.

    Attributes:
        signer: As securesystemslib has it.
        name: File that it was read from.
    """

    signer: CryptoSigner
    name: str

    @property
    def id(self) -> str:
        """The ID by which securesystemslib names the key in a signature."""
        return str(self.signer.public_key.keyid)

    def __repr__(self) -> str:
        """Name the file, and nothing of what is in it."""
        return f"PrivateKey({self.name})"

    def sign(self, statement: str) -> str:
        """Return a statement in a signed envelope, as text."""
        from securesystemslib.dsse import Envelope  # noqa: PLC0415 - only where a key is given

        envelope = Envelope(statement.encode(), PAYLOAD_TYPE, {})
        envelope.sign(self.signer)
        # On one line, so that it can stand in a bundle, which is JSON lines:
        # https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md
        return json.dumps(envelope.to_dict()) + "\n"


def read_private_key(path: Path, *, option: str, passphrase: str = "") -> PrivateKey:
    """Read a key that signs: PEM of an Ed25519, ECDSA (P-256, P-384, P-521) or RSA key.

    Args:
        path: The file.
        option: What named it, for messages.
        passphrase: Opens an encrypted one.

    Raises:
        TargetError: It cannot be read or used, or the libraries for it are missing.
    """
    _require(option)
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an extra
        load_pem_private_key,
    )
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - an extra

    data = _read(path, option)
    where = f"{option}: {path}"
    if b"SIGSTORE PRIVATE KEY" in data or b"COSIGN PRIVATE KEY" in data:
        raise TargetError(
            f"{where} is a key in cosign's own form, which only cosign can open",
            advice="make one that both can read, then cosign import-key-pair: openssl genpkey "
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
        )
    if b"PUBLIC KEY" in data and b"PRIVATE KEY" not in data:
        raise TargetError(f"{where} is a public key", advice="name the private one, which signs")
    try:
        key = load_pem_private_key(data, passphrase.encode() or None)
        signer = CryptoSigner(key)
    except TypeError:
        # cryptography's word for an encrypted key without a password, and the other way round
        raise TargetError(
            f"{where} is encrypted" if not passphrase else f"{where} is not encrypted",
            advice=f"put its passphrase into the variable {PASSPHRASE}"
            if not passphrase
            else f"unset {PASSPHRASE}",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        locked = bool(passphrase)
        raise _unusable(where, data, error, locked=locked, cure=_MAKE) from None
    _refuse_weak(key, where)
    return PrivateKey(signer, str(path))


def read_public_key(path: Path, *, option: str = "--key") -> PublicKey:
    """Read a key that verifies: PEM, as `openssl pkey -pubout` and `cosign public-key` write it.

    Raises:
        TargetError: It cannot be read or used, or the libraries for it are missing.
    """
    _require(option)
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an extra
        load_pem_public_key,
    )
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415 - an extra

    data = _read(path, option)
    where = f"{option}: {path}"
    if b"PRIVATE KEY" in data:
        raise TargetError(
            f"{where} is a private key, and only the public one is needed",
            advice=f"openssl pkey -in {path} -pubout -out public.pem, and name public.pem",
        )
    if b"BEGIN CERTIFICATE" in data:
        raise TargetError(
            f"{where} is a certificate, and its public key is needed",
            advice=f"openssl x509 -in {path} -noout -pubkey > public.pem, and name public.pem",
        )
    try:
        key = load_pem_public_key(data)
        public = SSlibKey.from_crypto(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(where, data, error, locked=False, cure=_NAME_PUBLIC) from None
    _refuse_weak(key, where)
    return PublicKey(public, str(path))


def payload_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Take the statement out of an envelope without any look at who signed it.

    Returns:
        The statement, and the IDs of the keys that are said to have signed it.

    Raises:
        SignatureError: It is no envelope of a statement.
    """
    payload, signatures = _open(text)
    return payload.decode(), tuple(str(item.get("keyid", "")) for item in signatures)


def verify_envelope(text: str, key: PublicKey) -> str:
    """Return the statement in an envelope that a key has signed.

    A signature is tried whatever ID of a key it carries: the ID is only a hint, and cosign leaves
    it out.

    Raises:
        SignatureError: It is no envelope of a statement, nobody signed it, or not this key.
    """
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - an extra
    from securesystemslib.exceptions import (  # noqa: PLC0415 - an extra
        UnverifiedSignatureError,
        VerificationError,
    )
    from securesystemslib.signer import Signature  # noqa: PLC0415 - an extra

    payload, signatures = _open(text)
    if not signatures:
        raise SignatureError("nobody signed the envelope", advice=_SIGN)
    signed = Envelope(payload, PAYLOAD_TYPE, {}).pae()
    for item in signatures:
        try:
            key.key.verify_signature(Signature(key.id, _decoded(item, "sig").hex()), signed)
        except (UnverifiedSignatureError, VerificationError):
            continue
        return payload.decode()
    ids = sorted({str(item.get("keyid", "")) for item in signatures})
    if key.id in ids:
        raise SignatureError(
            f"the signature of key {key.id[:_ID]} does not fit: the statement or the signature "
            "was changed after it was signed",
            advice="do not trust it; take the evidence from where it was made",
        )
    raise SignatureError(
        f"it is not signed by {key.name} (key {key.id[:_ID]}) but by "
        f"{', '.join(one_line(each[:_ID]) or 'a key without an ID' for each in ids)}, or it was "
        "changed",
        advice="name the public key of whoever signs for you",
    )


def _open(text: str) -> tuple[bytes, list[dict[str, Any]]]:
    """Return what an envelope holds and its signatures.

    Raises:
        SignatureError: It is no envelope of a statement.
    """
    try:
        document = read_object(text, "the envelope")
    except ValueError as error:
        raise SignatureError(str(error), advice=_SIGN) from None
    kind = document.get("payloadType")
    if kind != PAYLOAD_TYPE:
        shown = one_line(json.dumps(kind), 80)
        raise SignatureError(
            f"the envelope holds no statement: its payloadType is {shown}", advice=_SIGN
        )
    signatures = document.get("signatures")
    if not isinstance(signatures, list) or not all(isinstance(each, dict) for each in signatures):
        raise SignatureError("the envelope has no list of signatures", advice=_SIGN)
    payload = _decoded(document, "payload")
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise SignatureError("the payload of the envelope is not a text", advice=_SIGN) from None
    return payload, signatures


def _decoded(item: dict[str, Any], key: str) -> bytes:
    """Read base64, as DSSE writes it.

    Raises:
        SignatureError: It is none.
    """
    text = item.get(key)
    try:
        return base64.b64decode(text if isinstance(text, str) else "-", validate=True)
    except ValueError:
        raise SignatureError(f"{key} of the envelope is not base64", advice=_SIGN) from None


def _require(option: str) -> None:
    """Look for the libraries of the extra.

    Raises:
        TargetError: They are not installed.
    """
    missing = [name for name in ("securesystemslib", "cryptography") if find_spec(name) is None]
    if missing:
        raise TargetError(f"{option} needs {' and '.join(missing)}", advice=_INSTALL)


def _read(path: Path, option: str) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_LARGEST_KEY + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TargetError(
            f"{option}: cannot read {path}: {why}", advice="name a key in PEM form"
        ) from None
    if len(data) > _LARGEST_KEY:
        raise TargetError(f"{option}: {path} is too large for a key", advice=_MAKE)
    return data


def _refuse_weak(key: object, where: str) -> None:
    size = getattr(key, "key_size", _WEAKEST_RSA)
    is_rsa = hasattr(key, "private_numbers") or hasattr(key, "public_numbers")
    if is_rsa and "RSA" in type(key).__name__ and size < _WEAKEST_RSA:
        raise TargetError(
            f"{where} is an RSA key of {size} bits, and {_WEAKEST_RSA} are the least", advice=_MAKE
        )


def _unusable(where: str, data: bytes, error: Exception, *, locked: bool, cure: str) -> TargetError:
    """Say why a key cannot be used; the libraries' words may be long, but hold none of it.

    Args:
        where: What names it.
        data: Its content.
        error: What the libraries say.
        locked: Whether a passphrase was tried on it.
        cure: What helps, unless it is the passphrase.
    """
    if locked and b"ENCRYPTED" in data:
        return TargetError(
            f"{where} cannot be opened: {PASSPHRASE} holds another passphrase, or the file is "
            "broken",
            advice=f"put the passphrase of this key into {PASSPHRASE}; openssl pkey -in FILE "
            "-noout asks for it and says whether it fits",
        )
    if b"-----BEGIN" not in data:
        why = "it is not PEM"
    elif kind := _KIND.search(str(error)):
        why = f"it is a key of kind {kind[1]}, which is none that signs here"
    else:
        why = one_line(str(error), 160)
    return TargetError(f"{where} cannot be used: {why}", advice=cure)
