"""Send a load and say what came back: by the collector, or where it cannot go, by asyncio."""

from __future__ import annotations

import json
import os
import re
import select
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_vllm.adapters.load.process import RedirectedError, run_collector
from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from pytest_vllm.domain.load.columns import Columns
    from pytest_vllm.domain.load.plan import LoadPlan, Request
    from pytest_vllm.domain.load.progress import Progress

# Each is only a hint at several choices, since it may stand anywhere in the body.
_SEVERAL = re.compile(rb'"(?:n|best_of)"\s*:\s*(?:[2-9]|\d\d)|"prompt"\s*:\s*\[\s*["\[]')
_OURS = {"content-length", "transfer-encoding", "connection"}
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[!-~]*")


def run_load(plan: LoadPlan, *, progress: Callable[[Progress], None] | None = None) -> Columns:
    """Send a load, and wait until all of it has ended.

    What a server does is in the columns: nothing of it raises.

    Args:
        plan: What is sent.
        progress: Told about twice a second how far it is.

    Raises:
        TargetError: The plan cannot be sent: its URL, a header, its order.
        HostError: This host does not let the client do its work.
        KeyboardInterrupt: The user ended it; nothing is left behind.
    """
    parts = _checked(plan)
    reason = _why_not(plan, parts)
    if not reason:
        try:
            return run_collector(plan, parts, progress=progress)
        except RedirectedError as error:
            reason = f"the server redirects: {error}"
    from pytest_vllm.adapters.load.asyncio_path import run_asyncio  # noqa: PLC0415 - httpx is slow

    return run_asyncio(plan, progress=progress, reason=reason)


def _why_not(plan: LoadPlan, parts: SplitResult) -> str:
    """Return why the collector cannot send a plan, empty when it can."""
    if not hasattr(select, "epoll"):
        return f"no epoll on {sys.platform}"
    if parts.scheme == "https":
        return "HTTPS"
    if parts.username is not None:
        return "a user name in the URL"
    if _has_proxy(plan.url, parts.netloc):
        return "a proxy is set for http"
    if any(_has_several(one) for one in plan.requests):
        return "several choices of a request"
    return ""


def _has_proxy(url: str, host: str) -> bool:
    """Tell whether the environment names a proxy; what that needs is slow to load."""
    if not any(name.lower() in {"http_proxy", "all_proxy"} for name in os.environ):
        return False
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415

    from pytest_vllm.adapters.http import is_loopback  # noqa: PLC0415

    named = {"http", "all"} & set(getproxies())
    return bool(named) and not proxy_bypass(host) and not is_loopback(url)


def _has_several(request: Request) -> bool:
    if not _SEVERAL.search(request.body):
        return False
    try:
        body = json.loads(request.body)
    except ValueError:
        return False
    if not isinstance(body, dict):
        return False
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    return several or any(
        isinstance(body.get(name), int) and body[name] > 1 for name in ("n", "best_of")
    )


def _checked(plan: LoadPlan) -> SplitResult:
    """Return the parts of a plan's URL once the plan is known to make sense.

    Raises:
        TargetError: It does not.
    """
    try:
        parts = urlsplit(plan.url)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise TargetError(
            f"no load can be sent to {plan.url!r}", advice="name it like http://127.0.0.1:8000"
        )
    for name, value in plan.headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or name.lower() in _OURS:
            raise TargetError(
                f"the header {name!r} cannot be sent with a load",
                advice="name headers without line ends; the length is the client's to say",
            )
    for number, one in enumerate(plan.requests):
        closed = one.due_ns is None and one.after is None
        if one.after is not None and not 0 <= one.after < number:
            said = f"request {number} waits for request {one.after}, which does not come before it"
        elif closed and plan.concurrency < 1:
            said = f"request {number} waits for a place, and there is none"
        elif one.pause_ns < 0 or (one.due_ns is not None and one.due_ns < 0):
            said = f"request {number} is due before the load begins"
        elif not _PATH.fullmatch(one.path):
            said = f"request {number} goes to {one.path!r}, which is no path"
        else:
            continue
        raise TargetError(f"the load cannot be sent: {said}", advice="see the plan of the load")
    return parts
