"""The header of a run: each setting with its source, and what deserves a warning."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends.device import choose_devices
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.text import redact, secrets_in
from pytest_vllm.domain.waivers import refuse_unknown
from pytest_vllm.plugin.marks import catalogue
from pytest_vllm.plugin.options import NONE, PERFORMANCE, SUITES
from pytest_vllm.plugin.outcomes import CHECK
from pytest_vllm.plugin.state import STATE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.settings import Setting
    from pytest_vllm.domain.target import Target

SOAK = "memory.soak.no-growth"
BROKEN = pytest.StashKey[str]()
_FIRST = ("image", "url", "model", "revision", "backend", "serve-arg", "env")
_WIDTH = 96


class HeaderPlugin:
    """Shows the header lines."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_report_header(self) -> list[str]:
        """Return the lines that say what is accepted."""
        broken = self._config.stash.get(BROKEN, None)
        if broken is not None:
            return [_broken_line(broken)]
        state = self._config.stash[STATE]
        return [*header_lines(state.target, state.profile), *_device_lines(state.target)]

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """Say before the run how long its longest checks may take."""
        broken = self._config.stash.get(BROKEN, None)
        if broken is not None and self._config.get_verbosity() < 0:  # -q shows no header
            return [_broken_line(broken)]
        state = self._config.stash.get(STATE, None)
        checks = [check for item in items if (check := item.stash.get(CHECK, None)) is not None]
        if state is None:
            return []
        lines = []
        if state.loads is not None and any(check.suite == PERFORMANCE for check in checks):
            lines.append(
                f"vllm: measures loads for about {state.loads.about_s:.0f} s, and begins none "
                f"after {state.loads.limit_s:g} s (performance={state.loads.name})"
            )
        if any(check.id == SOAK for check in checks):
            lines.append(_soak_line(state.target))
        return lines


def _broken_line(why: str) -> str:
    return f"vllm: this target could not run: {why}"


def _soak_line(target: Target) -> str:
    count, limit = target.number("soak-requests"), target.seconds("soak-limit")
    if not count:
        return "vllm: no soak (--vllm-soak-requests=0): nothing is said of growth under load"
    return f"vllm: ends with a soak of {count} requests, {limit:g} s at most (soak-requests)"


def header_lines(target: Target, profile: Profile) -> list[str]:
    """Name every setting that has a value, with its source; the target first."""
    ordered = sorted(target.settings.values(), key=_rank)
    secrets = target.secrets(os.environ)
    shown = [
        redact(_show(setting, target), secrets)
        for setting in ordered
        if setting.value not in (None, (), False)
    ]
    if target.settings["backend"].value is None:
        shown.insert(0, f"backend={target.backend} (chosen)")
    lines = _wrap(shown)
    lines += [f"vllm: warning: {text}" for text in target_warnings(target, profile)]
    return lines


def _device_lines(target: Target) -> list[str]:
    """Say which GPU devices a container will get on this host."""
    if target.backend != "docker":
        return []
    try:
        choice = choose_devices(target.gpus)
    except TargetError as error:
        return [f"vllm: devices: {error.message}"]
    shown = " ".join(choice.devices) or "none"
    return [f"vllm: devices: {shown}" + (f" ({choice.note})" if choice.note else "")]


def target_warnings(target: Target, profile: Profile) -> tuple[str, ...]:
    """Name what about a target a careful reader should know."""
    warnings = []
    if profile.complete and target.suites:
        warnings.append(
            f"profile {profile.name} wants every suite, but --vllm-suite leaves some out"
        )
    elif profile.complete and target.settings[PERFORMANCE].value == NONE:
        warnings.append(
            f"profile {profile.name} wants every suite, but --vllm-performance={NONE} leaves out "
            "the one that measures"
        )
    return tuple(warnings)


def refuse_host_facts(target: Target) -> None:
    """Refuse to run on the facts of another host.

    Raises:
        TargetError: Such facts are named.
    """
    if target.settings["host-facts"].value:
        raise TargetError(
            "--vllm-host-facts is for a look ahead, not for a run",
            advice="pytest-vllm preflight --vllm-host-facts=FILE ...",
        )


def refuse_mutable_image(target: Target, profile: Profile) -> None:
    """Refuse an image whose name does not say what it is, where the profile demands it.

    Raises:
        TargetError: The image has no tag, or `latest`, and no digest.
    """
    if profile.pinned_image and target.image is not None and target.image.mutable:
        raise TargetError(
            f"profile {profile.name} refuses image {target.image.text}: "
            "without a fixed tag or digest nobody knows what was promoted",
            advice=f"name it as {target.image.repository}:TAG or by its digest",
        )


def refuse_ambiguous_image(image: ImageFacts | None, profile: Profile) -> None:
    """Refuse a tag that could mean several digests, where the profile demands that one is known.

    Else the run would name one that the tag may never have had, and hours later its promotion
    would be refused.

    Args:
        image: What the engine knows about it, `None` for nothing.
        profile: The rules of the run.

    Raises:
        TargetError: The image has several digests in the repository of the tag.
    """
    if profile.pinned_image and image is not None and image.rivals:
        raise TargetError(
            f"profile {profile.name} refuses image {image.asked}: this engine knows it by "
            f"{len(image.rivals)} digests, and nobody knows which of them is promoted",
            advice="name the one that the registry has under the tag: "
            + ", or ".join(f"--vllm-image={shlex.quote(each)}" for each in image.rivals),
        )


def refuse_strange_waivers(profile: Profile, own: Collection[str]) -> None:
    """Refuse waivers of checks that do not exist, where the profile wants every check.

    Args:
        profile: The rules of the run.
        own: IDs of checks beside the bundled ones.

    Raises:
        TargetError: There is such a waiver.
    """
    if profile.complete and profile.waivers:
        refuse_unknown(profile, {*own, *(check.id for check in catalogue(SUITES))})


def _rank(setting: Setting) -> tuple[bool, int]:
    place = _FIRST.index(setting.name) if setting.name in _FIRST else len(_FIRST)
    return setting.source == "default", place


def _show(setting: Setting, target: Target) -> str:
    if setting.name == "env":
        value = " ".join(
            v.name if v.value is None else f"{v.name}={_hidden(v.name, v.value)}"
            for v in target.env
        )
    elif isinstance(setting.value, tuple):
        value = shlex.join(setting.value)
    else:
        value = f"{setting.value:g}" if isinstance(setting.value, float) else str(setting.value)
    return f"{setting.name}={value} ({setting.source})"


def _hidden(name: str, value: str) -> str:
    return "[redacted]" if secrets_in({name: value}) else value


def _wrap(parts: list[str]) -> list[str]:
    lines = [f"vllm: {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > _WIDTH:
            lines.append(f"vllm: {part}")
        else:
            lines[-1] += f", {part}"
    return lines
