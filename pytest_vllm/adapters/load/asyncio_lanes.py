"""The clients of httpx that a load goes through."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Self

import httpx

from pytest_vllm.adapters.http import is_loopback
from pytest_vllm.domain.errors import HostError, TargetError

if TYPE_CHECKING:
    from pytest_vllm.domain.load.plan import LoadPlan

OTHER_FILES = 64
"""Files that a process has open beside the connections of a load."""


class Lanes:
    """Clients of httpx, one for each request in flight, so one for each connection.

    A pool that many requests share hands one idle connection to all that wait, of which all but
    one are turned away and wait for the next end of a request (httpcore 1.0.9): 64 requests that
    are due together were sent over three seconds.

    Args:
        plan: What is sent.

    Raises:
        TargetError: The environment or the URL is none that can be gone to.
        HostError: There are more connections than this process may have files.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._free: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []
        self._proxied = not is_loopback(plan.url)  # no proxy can reach a port of this host
        try:
            self._certificates = httpx.create_ssl_context()
            self.give_back(self.take())
        except (httpx.InvalidURL, ValueError, OSError) as error:
            raise TargetError(
                f"no load can be sent to {self._plan.url}: {error}",
                advice="see the URL, and HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
            ) from error

    async def __aenter__(self) -> Self:
        """Give the lanes."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        for client in self._all:
            await client.aclose()

    def take(self) -> httpx.AsyncClient:
        """Give the client that was used last, a new one when none is free."""
        if self._free:
            return self._free.pop()
        most, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and len(self._all) > most - OTHER_FILES:
            raise HostError(
                f"the load's client needs more than {len(self._all)} connections, and this process "
                f"may have {most} files open",
                advice="lower the concurrency, or raise the limit of open files (ulimit -n)",
            )
        limits = self._plan.limits
        client = httpx.AsyncClient(
            base_url=self._plan.url,
            headers={
                "accept": "*/*",
                "accept-encoding": "identity",
                "user-agent": "pytest-vllm",
                "content-type": "application/json",
                **self._plan.headers,
            },
            verify=self._certificates,
            trust_env=self._proxied,
            # Reads are bounded by `Exchange`, which knows whether a token has come.
            timeout=httpx.Timeout(limits.stall_s, connect=limits.connect_s, read=None, pool=None),
            follow_redirects=True,
        )
        self._all.append(client)
        return client

    def give_back(self, client: httpx.AsyncClient) -> None:
        """Have a client used again."""
        self._free.append(client)
