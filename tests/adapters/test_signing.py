"""Signatures over statements: made by ours, read by others, and none that does not fit accepted.

The others are openssl, which is given the bytes that DSSE says are signed, and securesystemslib
used on its own.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from pytest_vllm.adapters.signing import (
    PASSPHRASE,
    SignatureError,
    payload_of,
    read_private_key,
    read_public_key,
    verify_envelope,
)
from pytest_vllm.domain.errors import TargetError
from tests.unit.records import HOSTILE

STATEMENT = '{"_type": "https://in-toto.io/Statement/v1", "name": "Grüße"}\n'
TYPE = "application/vnd.in-toto+json"
ARGUMENTS = {
    "ed25519": ("-algorithm", "ED25519"),
    "p256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "p521": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "rsa": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "rsa1024": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
    "secp256k1": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
    "x25519": ("-algorithm", "X25519"),
}
RIGHT = "right"
GOOD = ("ed25519", "p256", "p384", "p521", "rsa")


@dataclass(frozen=True)
class Pair:
    """A key, as openssl writes it."""

    private: bytes
    public: bytes


def openssl(*words: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout


def pair(kind: str, number: int = 0) -> Pair:
    """Return a key; each number is another one."""
    return made(kind, number)


@cache
def made(kind: str, number: int) -> Pair:
    del number
    private = openssl("genpkey", *ARGUMENTS[kind])
    return Pair(private=private, public=openssl("pkey", "-pubout", data=private))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("p256", "ed25519"):
        write(tmp_path, kind)
    return tmp_path


def write(folder: Path, kind: str, number: int = 0) -> tuple[Path, Path]:
    """Write both halves of a key."""
    private, public = folder / f"{kind}{number}.pem", folder / f"{kind}{number}.pub.pem"
    private.write_bytes(pair(kind, number).private)
    public.write_bytes(pair(kind, number).public)
    return private, public


def sign(folder: Path, kind: str = "p256") -> dict[str, Any]:
    private, _ = write(folder, kind)
    envelope: dict[str, Any] = json.loads(read_private_key(private, option="--key").sign(STATEMENT))
    return envelope


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_signed_is_verified(tmp_path: Path, kind: str) -> None:
    private, public = write(tmp_path, kind)
    key = read_private_key(private, option="--key")
    text = key.sign(STATEMENT)
    assert verify_envelope(text, read_public_key(public)) == STATEMENT
    assert payload_of(text) == (STATEMENT, (key.id,))
    assert json.loads(text)["payloadType"] == TYPE


@pytest.mark.parametrize("kind", GOOD)
def test_securesystemslib_verifies_it_by_itself(tmp_path: Path, kind: str) -> None:
    document = sign(tmp_path, kind)
    key = SSlibKey.from_crypto(load_pem_public_key(pair(kind).public))
    Envelope.from_dict(json.loads(json.dumps(document))).verify([key], 1)
    document["payload"] = base64.b64encode(STATEMENT.replace("ü", "u").encode()).decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([key], 1)


def test_openssl_verifies_the_bytes_that_dsse_defines(tmp_path: Path) -> None:
    """https://github.com/secure-systems-lab/dsse/blob/master/protocol.md#signature-definition."""
    document = sign(tmp_path)
    payload = base64.b64decode(document["payload"])
    signed = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
    (tmp_path / "sig").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    (tmp_path / "signed").write_bytes(signed)
    words = ("dgst", "-sha256", "-verify", f"{tmp_path}/p2560.pub.pem", "-signature")
    assert openssl(*words, f"{tmp_path}/sig", f"{tmp_path}/signed") == b"Verified OK\n"


def test_a_signature_of_openssl_without_the_id_of_a_key_is_verified(tmp_path: Path) -> None:
    """As cosign leaves it out."""
    private, public = write(tmp_path, "p256")
    payload = STATEMENT.encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
    made = openssl("dgst", "-sha256", "-sign", str(private), data=signed)
    document = {
        "payloadType": TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": "AAAA"}, {"sig": base64.b64encode(made).decode()}],
    }
    assert verify_envelope(json.dumps(document), read_public_key(public)) == STATEMENT


def forged_payload(envelope: dict[str, Any]) -> None:
    envelope["payload"] = base64.b64encode(STATEMENT.replace("ü", "u").encode()).decode()


def forged_signature(envelope: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    raw[-1] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(raw).decode()


def of_another_type(envelope: dict[str, Any]) -> None:
    envelope["payloadType"] = "text/plain"


def of_a_nested_type(envelope: dict[str, Any]) -> None:
    envelope["payloadType"] = json.loads("[" * 200 + "]" * 200)


def signed_by_a_nested_key(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["keyid"] = json.loads("[" * 200 + "]" * 200)


def unsigned(envelope: dict[str, Any]) -> None:
    envelope["signatures"] = []


def without_signatures(envelope: dict[str, Any]) -> None:
    del envelope["signatures"]


def broken_base64(envelope: dict[str, Any]) -> None:
    envelope["payload"] = "é*"


def broken_signature(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["sig"] = None


def not_a_text(envelope: dict[str, Any]) -> None:
    envelope["payload"] = base64.b64encode(b"\xff\xfe").decode()


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (forged_payload, "does not fit: the statement or the signature was changed"),
        (forged_signature, "does not fit: the statement or the signature was changed"),
        (of_another_type, 'its payloadType is "text/plain"'),
        (of_a_nested_type, "the envelope.payloadType is nested too deeply"),
        (signed_by_a_nested_key, "the envelope.signatures is nested too deeply"),
        (unsigned, "nobody signed"),
        (without_signatures, "has no list of signatures"),
        (broken_base64, "payload of the envelope is not base64"),
        (broken_signature, "sig of the envelope is not base64"),
        (not_a_text, "payload of the envelope is not a text"),
    ],
)
def test_what_was_tampered_with_is_refused(folder: Path, tamper: Any, words: str) -> None:
    envelope = sign(folder)
    tamper(envelope)
    with pytest.raises(SignatureError, match=words) as caught:
        verify_envelope(json.dumps(envelope), read_public_key(folder / "p2560.pub.pem"))
    assert caught.value.advice


@pytest.mark.parametrize("kind", GOOD)
def test_another_key_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    text = json.dumps(sign(tmp_path, kind))
    other = read_public_key(write(tmp_path, "ed25519", 1)[1])
    with pytest.raises(SignatureError, match="not signed by .*ed255191.pub.pem"):
        verify_envelope(text, other)


def test_the_id_of_a_key_proves_nothing(folder: Path) -> None:
    """A stranger's signature under the ID of the right key."""
    envelope = sign(folder, "ed25519")
    right = read_public_key(folder / "p2560.pub.pem")
    envelope["signatures"][0]["keyid"] = right.id
    with pytest.raises(SignatureError, match="does not fit"):
        verify_envelope(json.dumps(envelope), right)


def test_hostile_ids_of_keys_are_shown_as_text(folder: Path) -> None:
    envelope = sign(folder, "ed25519")
    envelope["signatures"] = [{"keyid": HOSTILE, "sig": ""}, {"keyid": 7, "sig": ""}, {"sig": ""}]
    with pytest.raises(SignatureError) as caught:
        verify_envelope(json.dumps(envelope), read_public_key(folder / "p2560.pub.pem"))
    assert caught.value.message.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
KEY = pair("ed25519")


@given(
    document=st.text()
    | st.fixed_dictionaries(
        {"payloadType": st.just(TYPE) | JSON, "payload": JSON, "signatures": JSON}
    ).map(json.dumps)
)
def test_no_garbage_is_an_envelope(tmp_path_factory: pytest.TempPathFactory, document: str) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.pub.pem"
    file.write_bytes(KEY.public)
    with pytest.raises(SignatureError) as caught:
        verify_envelope(document, read_public_key(file))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not PEM"),
        (b"\x00" * 70_000, "too large for a key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used"),
        (pair("p256").public, "is a public key"),
        (pair("rsa1024").private, "RSA key of 1024 bits, and 2048 are the least"),
        (pair("secp256k1").private, "unsupported curve 'secp256k1'"),
        (pair("x25519").private, "it is a key of kind X25519, which is none that signs here"),
        (
            b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n",
            "cosign's own form",
        ),
    ],
)
def test_what_cannot_sign_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(TargetError, match=words) as caught:
        read_private_key(tmp_path / "key.pem", option="--vllm-sign-key")
    assert caught.value.message.startswith("--vllm-sign-key")
    assert caught.value.message.isprintable()
    assert caught.value.advice


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"garbage", "it is not PEM"),
        (pair("p256").private, "is a private key, and only the public one is needed"),
        (b"-----BEGIN CERTIFICATE-----\n", "is a certificate"),
        (pair("secp256k1").public, "unsupported curve"),
        (pair("x25519").public, "it is a key of kind X25519, which is none that signs here"),
        (pair("rsa1024").public, "RSA key of 1024 bits"),
    ],
)
def test_what_cannot_verify_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(TargetError, match=words) as caught:
        read_public_key(tmp_path / "key.pem")
    assert caught.value.advice


def test_the_words_of_openssl_in_advice_hold(tmp_path: Path) -> None:
    """The cure of a private key in place of the public one, as it is printed."""
    private, public = write(tmp_path, "p256")
    with pytest.raises(TargetError) as caught:
        read_public_key(private)
    command = caught.value.advice.partition(", and")[0].split()
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "public.pem").read_bytes() == public.read_bytes()


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.pem", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TargetError, match=words):
            read_private_key(path, option="--key")
    with pytest.raises(TargetError, match="null byte"):
        read_public_key(Path("a\0b"))


def test_an_encrypted_key_wants_its_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(openssl("pkey", "-aes256", "-passout", f"pass:{RIGHT}", data=KEY.private))
    assert read_private_key(file, option="--key", passphrase=RIGHT).sign("{}")
    for passphrase, words in (("", "is encrypted"), ("wrong", "cannot be opened")):
        with pytest.raises(TargetError, match=words) as caught:
            read_private_key(file, option="--key", passphrase=passphrase)
        assert PASSPHRASE in str(caught.value)
        assert "wrong" not in str(caught.value)
        assert "passphrase" in caught.value.advice
        assert "make one" not in caught.value.advice
    file.write_bytes(KEY.private)
    with pytest.raises(TargetError, match="is not encrypted"):
        read_private_key(file, option="--key", passphrase=RIGHT)


def test_a_key_never_shows_what_is_in_it(folder: Path) -> None:
    secret = pair("p256").private.decode().splitlines()[1]
    key = read_private_key(folder / "p2560.pem", option="--key")
    assert secret not in f"{key!r} {key} {key.sign(STATEMENT)}"
    broken = pair("p256").private.replace(b"MIGHAgEA", b"MIGHAgEB")
    (folder / "broken.pem").write_bytes(broken)
    with pytest.raises(TargetError) as caught:
        read_private_key(folder / "broken.pem", option="--key")
    assert secret[8:] not in str(caught.value)


@pytest.mark.parametrize("missing", ["securesystemslib", "cryptography"])
def test_without_the_extra_its_installation_is_the_cure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # Python's way to say that there is none
    for read in (read_public_key, read_private_key):
        with pytest.raises(TargetError, match=f"--key needs {missing}") as caught:
            read(folder / "p2560.pem", option="--key")
        assert caught.value.advice == "pip install 'pytest-vllm[signing]'"
