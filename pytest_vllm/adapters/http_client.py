"""Makes an `httpx` client by the environment's certificates and proxies, or says what is wrong."""

from __future__ import annotations

import os

import httpx

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import one_line

_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
"""What Python and httpx read when they set up TLS."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY = "NO_PROXY"
_NO_USE = (ImportError, ValueError, httpx.InvalidURL)
"""What httpx raises for a proxy that it cannot use: SOCKS without its package, a scheme, a URL."""
_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "identity",
    # Without it a connection is idle for a moment, in which the pool may hand it to
    # another thread and close it all the same: "Bad file descriptor" (httpcore 1.0.9).
    "connection": "close",
    "user-agent": "pytest-vllm",
}


def make_client(*, timeout_s: float, loopback: bool, tls: bool) -> httpx.Client:
    """Return a client that keeps no connection and follows no redirect.

    Args:
        timeout_s: Seconds that each step of a request may take.
        loopback: Whether it speaks with this machine only, to which no proxy leads.
        tls: Whether it speaks TLS, then by `SSL_CERT_FILE` also where no proxy leads.

    Raises:
        TargetError: The environment names certificates or a proxy that cannot be used.
    """
    try:
        return httpx.Client(
            timeout=timeout_s,
            trust_env=not loopback,
            verify=httpx.create_ssl_context() if tls else True,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers=_HEADERS,
        )
    except OSError as error:  # of the certificates: nothing is connected yet
        raise _no_trust(error) from None
    except _NO_USE:
        raise _no_proxy() from None


def _no_trust(error: OSError) -> TargetError:
    named = [f"{name}={os.environ[name]}" for name in _TRUST if os.environ.get(name)]
    by = f" with {one_line(' and '.join(named), 300)}" if named else ""
    return TargetError(
        f"TLS cannot be set up{by}: {one_line(error.strerror or str(error), 200)}",
        advice="name a readable file of certificates (PEM) by SSL_CERT_FILE, or unset it",
    )


def _no_proxy() -> TargetError:
    """Name the variables at fault, never what they say: a proxy's URL may hold a password."""
    wrong = [name for name, url in os.environ.items() if name.lower() in _PROXIES and _fails(url)]
    return TargetError(
        f"what {' and '.join(wrong) or _NO_PROXY} says of proxies cannot be used",
        advice="write http://HOST:PORT, or unset it; for SOCKS: pip install 'httpx[socks]'",
    )


def _fails(url: str) -> bool:
    try:
        named = url if "://" in url else f"http://{url}"
        httpx.HTTPTransport(proxy=named, trust_env=False).close()
    except _NO_USE:
        return True
    return False
