"""Certificates and proxies of the environment that cannot be used are named, and no traceback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.http import Transport
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.reply import TransportFailure

if TYPE_CHECKING:
    from pathlib import Path

AWAY = "https://registry.invalid"
PASSWORD = "pa55word/of-a-proxy"  # noqa: S105 - made up


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what this host says of certificates and proxies."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)


def refusal(url: str = AWAY) -> TargetError:
    with pytest.raises(TargetError) as caught:
        Transport(url, api_key=None, timeout_s=1)
    return caught.value


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
@pytest.mark.parametrize("url", [AWAY, AWAY.replace("https", "http"), "https://127.0.0.1:9"])
def test_a_file_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "none" / "file"))
    error = refusal(url)
    assert error.message.startswith(f"TLS cannot be set up with {name}={tmp_path}/none/file: ")
    assert "No such file" in error.message
    assert "unset it" in error.advice


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_file_that_holds_no_certificate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "junk.pem").write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "junk.pem"))
    assert f"SSL_CERT_FILE={tmp_path}/junk.pem: " in refusal().message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", f"ftp://ci:{PASSWORD}@proxy.invalid"),
        ("https_proxy", f"http://ci:{PASSWORD}@proxy.invalid:8080"),
        ("HTTP_PROXY", "http://proxy.invalid:port"),
        ("ALL_PROXY", "http://[::1"),
        ("NO_PROXY", "http://[::1"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    if name != "ALL_PROXY":
        monkeypatch.setenv("ALL_PROXY", "proxy.invalid:8080")
    error = refusal()
    assert error.message == f"what {name} says of proxies cannot be used"
    assert "http://HOST:PORT" in error.advice
    assert PASSWORD[:4] not in str(error)


def test_a_proxy_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.invalid:1080")
    error = refusal()
    assert error.message == "what ALL_PROXY says of proxies cannot be used"
    assert "pip install 'httpx[socks]'" in error.advice


@pytest.mark.parametrize(
    "value",
    [
        *("http://", "http://:80", "http://a b", "http://[proxy", "http://127.0.0.1:99999"),
        *("gopher:", "http://\udcff", "\t", "http://\u00e4..\u00e4"),
    ],
)
def test_a_proxy_that_leads_nowhere_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises((TargetError, TransportFailure)):
        Transport(AWAY, api_key=None, timeout_s=5).send("GET", "/v2/")


def test_no_proxy_and_no_certificate_matter_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy.invalid")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    with pytest.raises(TransportFailure, match="refused"):
        Transport("http://127.0.0.1:9", api_key=None, timeout_s=5).send("GET", "/v2/")
