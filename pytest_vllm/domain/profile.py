"""A profile: named settings and rules of the verdict, read from TOML."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_vllm.domain.checks import CHECK_ID
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.plain import is_schema
from pytest_vllm.domain.server import CAPABILITIES
from pytest_vllm.domain.settings import OPTIONS
from pytest_vllm.domain.slo import Objectives, read_objectives
from pytest_vllm.domain.text import closest, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
_KEYS = (
    "schema",
    "description",
    "target",
    "verdict",
    "capabilities",
    "waiver",
    "slo",
    "performance",
)
_VERDICT_KEYS = ("complete", "pinned-image")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """Permission for one check to fail, for a reason and a time.

    Attributes:
        check: ID of the check, or `ID[CASE]` for one of its cases.
        reason: Why it may fail.
        link: Where that is tracked, a page of http or https.
        expires: Last day on which it counts, a day of UTC.
    """

    check: str
    reason: str
    link: str
    expires: dt.date

    @property
    def check_id(self) -> str:
        """ID of the check, without a case."""
        return self.check.partition("[")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Settings and rules under one name.

    Attributes:
        name: Bundled name or path of the file.
        target: Values by option name.
        complete: Whether every MUST check of the catalogue must have a result.
        pinned_image: Whether an image without a meaningful tag or digest is refused.
        capabilities: What the server is declared to have; its absence is a failure.
        waivers: Checks that may fail.
        slo: What is asked of the performance.
        performance: Keys that take the place of those of the performance profile.
    """

    name: str
    target: Mapping[str, object] = field(default_factory=dict)
    complete: bool = False
    pinned_image: bool = False
    capabilities: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    slo: Objectives = field(default_factory=Objectives)
    performance: Mapping[str, object] = field(default_factory=dict)


def build_profile(name: str, table: Mapping[str, object]) -> Profile:
    """Validate a parsed TOML table.

    Args:
        name: Bundled name or path, used in error messages.
        table: The parsed file.

    Raises:
        TargetError: A key is unknown or a value has the wrong type; file and key are named.
    """
    where = f"profile {name}"
    _refuse_unknown(where, table, _KEYS)
    if not is_schema(table.get("schema"), SCHEMA):
        raise TargetError(
            f"{where}: key schema is {table.get('schema')!r}", advice=f"write schema = {SCHEMA}"
        )
    target = _table(where, table, "target")
    options = tuple(option.name for option in OPTIONS if option.name != "profile")
    _refuse_unknown(f"{where} [target]", target, options)
    rules = _table(where, table, "verdict")
    _refuse_unknown(f"{where} [verdict]", rules, _VERDICT_KEYS)
    return Profile(
        name=name,
        target=target,
        complete=_flag(where, rules, "complete"),
        pinned_image=_flag(where, rules, "pinned-image"),
        capabilities=_capabilities(where, _table(where, table, "capabilities")),
        waivers=_waivers(where, table.get("waiver", [])),
        slo=read_objectives(where, _table(where, table, "slo")),
        performance=_table(where, table, "performance"),
    )


def _capabilities(where: str, table: Mapping[str, object]) -> tuple[str, ...]:
    _refuse_unknown(f"{where} [capabilities]", table, CAPABILITIES)
    return tuple(key for key in table if _flag(where, table, key))


def _waivers(where: str, raw: object) -> tuple[Waiver, ...]:
    if not isinstance(raw, list):
        raise TargetError(f"{where}: waiver is not a list", advice="write [[waiver]] tables")
    found: list[Waiver] = []
    for number, item in enumerate(raw, start=1):
        waiver = _waiver(f"{where} waiver {number}", item)
        for earlier, other in enumerate(found, start=1):
            if other.check == waiver.check or (
                other.check_id == waiver.check_id and other.check_id in (other.check, waiver.check)
            ):
                raise TargetError(
                    f"{where} waiver {number}: check {one_line(waiver.check)} is waived by waiver "
                    f"{earlier} already",
                    advice="keep one of the two",
                )
        found.append(waiver)
    return tuple(found)


def _waiver(where: str, raw: object) -> Waiver:
    if not isinstance(raw, dict):
        raise TargetError(f"{where}: not a table", advice="write [[waiver]]")
    _refuse_unknown(where, raw, ("check", "reason", "link", "expires"))
    texts = {}
    for key in ("check", "reason", "link"):
        value = raw.get(key)
        if not isinstance(value, str) or not value.strip():
            raise TargetError(f"{where}: key {key} is missing or not a text", advice=f'{key} = "…"')
        texts[key] = value.strip()
    name, bracket, case = texts["check"].partition("[")
    if not CHECK_ID.fullmatch(name) or (bracket and not case.endswith("]")):
        raise TargetError(
            f"{where}: key check is {one_line(texts['check'])}, which is no ID of a check",
            advice='write check = "chat.usage.adds-up", or "stream.order.holds[chat]" for one case',
        )
    if not _is_page(texts["link"]):
        raise TargetError(
            f"{where}: key link is {one_line(texts['link'])}, which is no page",
            advice='name where it is tracked: link = "https://..."',
        )
    expires = raw.get("expires")
    if not isinstance(expires, dt.date) or isinstance(expires, dt.datetime):
        raise TargetError(
            f"{where}: key expires is {expires!r}", advice="write a date: expires = 2027-01-31"
        )
    return Waiver(expires=expires, **texts)


def _is_page(link: str) -> bool:
    try:
        parts = urlsplit(link)
    except ValueError:  # such as a bracket that opens no IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not _BLANK.search(link)


def _refuse_unknown(where: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise TargetError(
                f"{where}: unknown key {key!r}{closest(key, known)}",
                advice=f"use {', '.join(known)}",
            )


def _table(where: str, table: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise TargetError(f"{where}: {key} is not a table", advice=f"write [{key}]")
    return value


def _flag(where: str, table: Mapping[str, object], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise TargetError(f"{where}: key {key} is {value!r}", advice="use true or false")
    return value
