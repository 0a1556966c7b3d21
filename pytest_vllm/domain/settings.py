"""The options of a run, each with one value and the place it came from."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option under its four names: `--vllm-x`, `PYTEST_VLLM_X`, profile `x`, ini `vllm_x`.

    Attributes:
        name: Name without prefix, words joined by `-`.
        help: One line for `--help`.
        kind: `text`, `list` (may be given many times), `words` (a list of command-line words),
            `flag`, `seconds` (above 0), `interval` (seconds, or 0 for never) or `number` (a
            whole one from 0 up).
        metavar: Placeholder for the value.
        choices: The only values allowed, empty for any.
        default: Value when nobody sets it, as text.
    """

    name: str
    help: str
    kind: str = "text"
    metavar: str = ""
    choices: tuple[str, ...] = ()
    default: str | None = None

    @property
    def flag(self) -> str:
        """The command-line option."""
        return f"--vllm-{self.name}"

    @property
    def env(self) -> str:
        """The environment variable."""
        return f"PYTEST_VLLM_{self.name.upper().replace('-', '_')}"

    @property
    def ini(self) -> str:
        """The key in pytest's ini file."""
        return f"vllm_{self.name.replace('-', '_')}"


OPTIONS: tuple[Option, ...] = (
    Option(name="model", metavar="MODEL", help="Model folder or Hub ID to serve."),
    Option(name="revision", metavar="REV", help="Revision of a Hub model."),
    Option(name="image", metavar="IMAGE", help="Docker image to accept; it is never pulled."),
    Option(
        name="backend",
        metavar="NAME",
        choices=("docker", "process", "attach"),
        help="How to get a server: docker (with --vllm-image), process, attach (with --vllm-url).",
    ),
    Option(name="url", metavar="URL", help="Attach to a running server, which is left alone."),
    Option(
        name="profile",
        metavar="NAME|FILE",
        help="Profile: default, promote, documented or a TOML file.",
        default="default",
    ),
    Option(
        name="suite",
        kind="list",
        metavar="NAME",
        help="Bundled suite to run (repeat or separate by commas; default: all).",
    ),
    Option(
        name="gpus",
        metavar="all|none|0,1",
        default="all",
        help="GPUs handed to the server, by render-node order.",
    ),
    Option(
        name="serve-arg",
        kind="words",
        metavar="ARG",
        help="Argument for vLLM's server (repeat; one that holds blanks is split as by a shell).",
    ),
    Option(
        name="env",
        kind="list",
        metavar="NAME[=VALUE]",
        help="Variable for the server (repeat); a bare NAME passes the value on unseen.",
    ),
    Option(
        name="timeout",
        kind="seconds",
        metavar="SECONDS",
        default="3600",
        help="Overall limit for the server to become ready.",
    ),
    Option(
        name="pull",
        metavar="WHEN",
        choices=("never", "missing"),
        default="never",
        help="Whether an image that is not on the engine is pulled before the start.",
    ),
    Option(
        name="dns",
        kind="list",
        metavar="IP",
        help="DNS server for the container (repeat), for hosts whose own one it cannot reach.",
    ),
    Option(
        name="compose-override",
        metavar="FILE",
        help="Compose file laid over ours (service: vllm), for what no option says.",
    ),
    Option(
        name="preflight-ignore",
        kind="list",
        metavar="ID",
        help="Finding of the preflight that does not stop the run (repeat; all: none does).",
    ),
    Option(
        name="host-facts",
        metavar="FILE",
        help="Facts of another host for `pytest-vllm preflight`: a run.json or its --json output.",
    ),
    Option(
        name="phase-timeout",
        kind="list",
        metavar="PHASE=SECONDS",
        help="Limit for a start-up phase without any progress (repeat), such as load=3600.",
    ),
    Option(
        name="gpu-busy",
        metavar="WHAT",
        choices=("wait", "fail"),
        default="wait",
        help="What to do while another run on this host has leased a GPU.",
    ),
    Option(
        name="artifacts",
        metavar="FOLDER",
        default=".vllm",
        help="Folder that gets one evidence folder per run.",
    ),
    Option(
        name="report",
        kind="list",
        metavar="NAME",
        help="Report to write beside run.json (repeat or separate by commas; none; default: all).",
    ),
    Option(name="keep", kind="flag", help="Leave the server running and say how to stop it."),
    Option(
        name="baseline",
        metavar="RUN",
        help="Earlier run to compare checks and figures with: its run.json, its folder, its ID, or "
        "latest (the latest below --vllm-artifacts that ended in PROMOTE).",
    ),
    Option(
        name="monitor",
        metavar="NAME",
        choices=("auto", "amd", "sysfs", "nvidia", "none"),
        default="auto",
        help="Who tells about the GPUs: AMD SMI, the amdgpu driver's files, NVML, or nobody.",
    ),
    Option(
        name="sample-interval",
        kind="interval",
        metavar="SECONDS",
        default="1",
        help="Time between two samples of the GPUs (0: take none).",
    ),
    Option(
        name="python",
        metavar="PATH",
        help="Interpreter that has vLLM, for --vllm-backend=process (default: this one).",
    ),
    Option(
        name="entrypoint",
        metavar="KIND",
        choices=("auto", "vllm", "module"),
        default="auto",
        help="Start `vllm serve` or `python -m vllm.entrypoints.openai.api_server`.",
    ),
    Option(
        name="docker-flags",
        metavar="SET",
        choices=("least", "documented"),
        default="least",
        help="Flags of the container: least privilege, or the ROCm documentation's set.",
    ),
    Option(
        name="api-key-env",
        metavar="NAME",
        default="VLLM_API_KEY",
        help="Variable that holds the server's API key, if it wants one.",
    ),
    Option(
        name="request-timeout",
        kind="seconds",
        metavar="SECONDS",
        default="120",
        help="Limit for one request of a check.",
    ),
    Option(
        name="concurrency",
        kind="number",
        metavar="N",
        default="16",
        help="Checks that share the server at the same time (1: one after the other).",
    ),
    Option(
        name="seed",
        kind="number",
        metavar="N",
        default="0",
        help="Root of everything random in the checks; above 0, they are also sent shuffled.",
    ),
    Option(
        name="golden",
        metavar="FILE",
        help="Golden to compare with (pytest-vllm golden record makes one).",
    ),
    Option(
        name="accuracy-floor",
        kind="number",
        metavar="PERCENT",
        help="Share of right answers that the suite `accuracy` requires.",
    ),
    Option(
        name="accuracy-task",
        metavar="NAME",
        help="Task of lm-evaluation-harness for the suite `accuracy`, such as gsm8k.",
    ),
    Option(
        name="soak-requests",
        kind="number",
        metavar="N",
        default="2000",
        help="Requests of the soak in the suite `memory` (0: no soak).",
    ),
    Option(
        name="soak-limit",
        kind="seconds",
        metavar="SECONDS",
        default="600",
        help="Limit for the soak, and for each other load of the suite `memory`.",
    ),
    Option(
        name="soak-growth",
        kind="number",
        metavar="MIB",
        default="64",
        help="MiB by which a GPU's memory may grow per 1,000 requests of the soak.",
    ),
    Option(
        name="soak-growth-host",
        kind="number",
        metavar="MIB",
        default="256",
        help="MiB by which the memory of the server's processes may grow meanwhile.",
    ),
    Option(
        name="performance",
        metavar="none|smoke|standard|soak|FILE",
        default="smoke",
        help="How the suite `performance` measures: smoke takes a minute, none leaves it out.",
    ),
    Option(
        name="sign-key",
        metavar="FILE",
        help="Private key (PEM) that signs what the run states about the image.",
    ),
    Option(
        name="regression",
        metavar="WHAT",
        choices=("reject", "warn"),
        default="reject",
        help="What a figure that is worse than the baseline's does to the verdict.",
    ),
)

Value = str | int | float | bool | tuple[str, ...] | None
_EMPTY: dict[str, Value] = {"list": (), "words": (), "flag": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The value of an option and where it was set.

    Attributes:
        name: Option name.
        value: `str`, `tuple[str, ...]`, `bool`, `int` or seconds as `float`; `None` when unset.
        source: `option`, `env NAME`, `profile NAME`, `ini NAME` or `default`.
    """

    name: str
    value: Value
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything a setting can come from.

    Attributes:
        options: Values of the command line, by option name.
        env: The environment.
        ini: Values of the ini file, by option name.
    """

    options: Mapping[str, object]
    env: Mapping[str, str]
    ini: Mapping[str, object]


def find_raw(option: Option, sources: Sources) -> tuple[object, str] | None:
    """Return the raw value set by command line or environment, with its source.

    An environment variable that is set to nothing counts as unset.
    """
    from_option = sources.options.get(option.name)
    if from_option not in (None, [], False):
        return from_option, "option"
    from_env = sources.env.get(option.env, "")
    if from_env:
        return from_env, f"env {option.env}"
    return None


def resolve(
    sources: Sources, *, profile: Mapping[str, object], profile_name: str
) -> dict[str, Setting]:
    """Give every option its value: option > env > profile > ini > default.

    Args:
        sources: Command line, environment and ini file.
        profile: The `[target]` table of the profile, by option name.
        profile_name: Name shown as source.

    Returns:
        One setting for each option, by name.

    Raises:
        TargetError: A value has the wrong form; the message names its source.
    """
    return {option.name: resolve_one(option, sources, profile, profile_name) for option in OPTIONS}


def resolve_one(
    option: Option, sources: Sources, profile: Mapping[str, object], profile_name: str
) -> Setting:
    """Give one option its value; see `resolve`."""
    found = find_raw(option, sources)
    if found is None and option.name in profile:
        found = profile[option.name], f"profile {profile_name}"
    if found is None and sources.ini.get(option.name) not in (None, "", [], False):
        found = sources.ini[option.name], f"ini {option.ini}"
    if found is None and option.default is not None:
        found = option.default, "default"
    if found is None:
        return Setting(name=option.name, value=_EMPTY.get(option.kind), source="default")
    raw, source = found
    return Setting(name=option.name, value=_convert(option, raw, source), source=source)


def _convert(option: Option, raw: object, source: str) -> Value:
    named = option.flag if source == "option" else source
    value = _CONVERTERS[option.kind](raw, named)
    if option.choices and value not in option.choices:
        known = ", ".join(option.choices)
        raise TargetError(f"{named}: unknown value {raw!r}", advice=f"use one of {known}")
    return value


def _to_text(raw: object, named: str) -> Value:
    if not isinstance(raw, str):
        raise TargetError(f"{named}: expected text, got {raw!r}", advice="write it in quotes")
    return raw


def _to_list(raw: object, named: str) -> Value:
    if isinstance(raw, str):
        try:
            return tuple(shlex.split(raw))
        except ValueError as error:
            raise TargetError(f"{named}: {error} in {raw!r}", advice="close the quote") from None
    if isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return tuple(raw)
    raise TargetError(f"{named}: expected a list of texts, got {raw!r}", advice='write ["a", "b"]')


def _to_words(raw: object, named: str) -> Value:
    """Split exactly once: a variable is a line of a shell, a profile lists words as they are.

    A value of the command line or the ini file is taken as it is, so that JSON keeps its quotes,
    unless it holds blanks.
    """
    items = _to_list(raw, named)
    if isinstance(raw, str) or named.startswith("profile") or not isinstance(items, tuple):
        return items
    words: list[str] = []
    for item in items:
        split = _to_list(item, named) if len(item.split()) > 1 else (item,)
        words += split if isinstance(split, tuple) else ()
    return tuple(words)


def _to_flag(raw: object, named: str) -> Value:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise TargetError(f"{named}: expected true or false, got {raw!r}", advice="use true or false")


def _to_seconds(raw: object, named: str) -> Value:
    try:
        seconds = float(raw) if isinstance(raw, str | int | float) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise TargetError(f"{named}: expected seconds above 0, got {raw!r}", advice="e.g. 600")
    return seconds


def _to_interval(raw: object, named: str) -> Value:
    return 0.0 if str(raw).strip() in ("0", "0.0") else _to_seconds(raw, named)


def _to_number(raw: object, named: str) -> Value:
    text = str(raw) if isinstance(raw, str | int) and not isinstance(raw, bool) else ""
    if not (text.isascii() and text.isdigit()):
        raise TargetError(f"{named}: expected a whole number, got {raw!r}", advice="e.g. 16")
    return int(text)


_CONVERTERS: dict[str, Callable[[object, str], Value]] = {
    "text": _to_text,
    "list": _to_list,
    "words": _to_words,
    "flag": _to_flag,
    "seconds": _to_seconds,
    "interval": _to_interval,
    "number": _to_number,
}
