"""The options of a run in pytest's own terms, and the target they make."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.performance import PerformanceProfile, read_performance
from pytest_vllm.domain.profile import Profile, build_profile
from pytest_vllm.domain.settings import (
    OPTIONS,
    Option,
    Setting,
    Sources,
    find_raw,
    resolve,
    resolve_one,
)
from pytest_vllm.domain.target import Target, build_target
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

PACKAGE = Path(__file__).parent.parent
SUITES = PACKAGE / "suites"
PERFORMANCE = "performance"
"""The suite that measures, and the option that says how."""
NONE = "none"
"""Value of that option which leaves the suite out."""
_ACTIVATING = ("model", "image", "url", "backend", "profile", "suite")
_INI_TYPES = {
    "text": "string",
    "seconds": "string",
    "interval": "string",
    "number": "string",
    "flag": "bool",
    "list": "linelist",
    "words": "linelist",
}


def add_options(parser: pytest.Parser) -> None:
    """Register each option under its command-line and its ini name."""
    group = parser.getgroup("vllm", "vLLM acceptance")
    for option in OPTIONS:
        help_text = f"{option.help} [env {option.env}]"
        keywords: dict[str, Any] = {"dest": f"vllm_{_key(option)}", "help": help_text}
        if option.kind == "flag":
            group.addoption(option.flag, action="store_true", default=None, **keywords)
        elif option.kind in ("list", "words"):
            group.addoption(
                option.flag, action="append", default=None, metavar=option.metavar, **keywords
            )
        else:
            if option.choices:
                keywords["help"] = f"{help_text} ({', '.join(option.choices)})"
            group.addoption(option.flag, default=None, metavar=option.metavar, **keywords)
        default: object = False if option.kind == "flag" else None
        parser.addini(option.ini, option.help, type=_INI_TYPES[option.kind], default=default)  # type: ignore[arg-type]


def read_sources(config: pytest.Config) -> Sources:
    """Collect what command line, environment and ini file say."""
    return Sources(
        options={option.name: config.getoption(f"vllm_{_key(option)}") for option in OPTIONS},
        env=os.environ,
        ini={option.name: config.getini(option.ini) for option in OPTIONS},
    )


def is_active(config: pytest.Config) -> bool:
    """Tell whether this run is about a vLLM server at all."""
    sources = read_sources(config)
    named = [option for option in OPTIONS if option.name in _ACTIVATING]
    return any(
        find_raw(option, sources) is not None or sources.ini.get(option.name) for option in named
    )


def names_paths(config: pytest.Config) -> bool:
    """Tell whether the command line names paths; else the bundled suites are run."""
    return config.args_source is config.ArgsSource.ARGS


def suite_names() -> tuple[str, ...]:
    """Return the names of the bundled suites, without importing any."""
    return tuple(sorted(path.stem.removeprefix("test_") for path in SUITES.glob("test_*.py")))


def read_target(
    config: pytest.Config, *, own: Mapping[str, Sequence[str]] | None = None
) -> tuple[Target, Profile]:
    """Resolve everything into a target and its profile.

    Args:
        config: Of this pytest run.
        own: Options by name that come before all others; lists go behind the others' words.

    Raises:
        TargetError: Some value is wrong, missing or contradicts another.
    """
    sources = read_sources(config)
    profile = load_profile(_profile_name(sources), base=Path(config.invocation_params.dir))
    sources = _with_own(sources, own or {}, profile)
    settings = resolve(sources, profile=profile.target, profile_name=profile.name)
    target = build_target(settings, known_suites=suite_names())
    return _with_checked_model(target, base=Path(config.invocation_params.dir)), profile


def _with_own(sources: Sources, own: Mapping[str, Sequence[str]], profile: Profile) -> Sources:
    """Put options before those of the command line."""
    options = dict(sources.options)
    for option in OPTIONS:
        if option.name not in own:
            continue
        words = list(own[option.name])
        if option.kind not in ("list", "words"):
            options[option.name] = words[-1]
            continue
        shared = resolve_one(option, sources, profile.target, profile.name).value
        before = list(shared) if isinstance(shared, tuple) else []
        # what holds blanks is quoted, so that it is not split again
        split = option.kind == "words"
        kept = [shlex.quote(word) if split and len(word.split()) > 1 else word for word in before]
        options[option.name] = [*kept, *words]
    return replace(sources, options=options)


def load_profile(name: str, *, base: Path) -> Profile:
    """Read a bundled profile by name or a TOML file by path.

    Raises:
        TargetError: There is none, or it cannot be read.
    """
    table = _read_named(
        name,
        bundled=PACKAGE / "data" / "profiles",
        base=base,
        what="profile",
        option="--vllm-profile",
    )
    return build_profile(name, table)


def load_performance(target: Target, profile: Profile, *, base: Path) -> PerformanceProfile | None:
    """Read the performance profile of a run: a bundled one by name, or a TOML file by path.

    Returns:
        The profile, or `None` where the suite `performance` is left out.

    Raises:
        TargetError: There is none, or it cannot be read, or makes no sense; or a suite is asked for
            and left out.
    """
    setting = target.settings["performance"]
    name = str(setting.value)
    if name == NONE:
        if PERFORMANCE in target.suites:
            raise TargetError(
                f"--vllm-suite names {PERFORMANCE}, and --vllm-performance={NONE} "
                f"({setting.source}) leaves it out",
                advice="say how to measure, e.g. --vllm-performance=smoke",
            )
        return None
    table = _read_named(
        name,
        bundled=PACKAGE / "data" / "load" / "performance",
        base=base,
        what="performance profile",
        option="--vllm-performance",
        also=(NONE,),
    )
    return read_performance(name, table, overrides=profile.performance)


def _read_named(name: str, **where: Any) -> dict[str, Any]:
    from pytest_vllm.adapters.toml_file import read_named  # noqa: PLC0415 - only in active runs

    return read_named(name, **where)


def _profile_name(sources: Sources) -> str:
    option = next(option for option in OPTIONS if option.name == "profile")
    return str(resolve_one(option, sources, {}, "").value)


def _with_checked_model(target: Target, *, base: Path) -> Target:
    """Make the path of a local model absolute, after a look at it."""
    if target.backend == "attach" or target.model is None:
        return target
    folder = (base / Path(target.model).expanduser()).absolute()
    if not target.model_is_path and not os.path.isdir(folder):  # noqa: PTH112 - never raises
        return target
    source = target.settings["model"].source
    if not _exists(folder, f"--vllm-model ({source})"):
        raise TargetError(
            f"--vllm-model ({source}): there is no folder {target.model}"
            f"{_similar(folder) or _known(target.model)}",
            advice="name an existing folder, or a Hub ID such as ORG/NAME",
        )
    settings = dict(target.settings)
    settings["model"] = Setting(name="model", value=str(folder), source=source)
    return build_target(settings, known_suites=suite_names())


def _exists(folder: Path, option: str) -> bool:
    """Tell whether a path is there, after a check that this user may look into it.

    Raises:
        TargetError: This user may not, or the system cannot.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        closed = True
    except OSError as error:
        raise TargetError(
            f"{option}: cannot look at {folder}: {error.strerror}", advice="check the path"
        ) from None
    else:
        closed = not os.access(folder, os.R_OK | (os.X_OK if is_folder else 0))
    if closed:
        raise TargetError(
            f"{option}: user {_user()} may not look at {folder}",
            advice="give that user read access to it and to the folders above it (chmod a+rX), "
            "or copy the model to where this user may read",
        )
    return True


def _user() -> str:
    try:
        return f"{pwd.getpwuid(os.geteuid()).pw_name} ({os.geteuid()})"
    except KeyError:  # a container's user need not have a name
        return str(os.geteuid())


def _similar(folder: Path) -> str:
    parent = folder.parent
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return ""  # no folder, or none that this user may list
    return closest(folder.name, names)


def _known(asked: str) -> str:
    """Say which Hub ID was meant by a path that is only one with a slash too many."""
    from pytest_vllm.adapters.knowledge import known_model_ids  # noqa: PLC0415 - for an error only

    name = asked.strip("./~")
    found = next((known for known in known_model_ids() if known.lower() == name.lower()), "")
    return f"; did you mean the Hub ID {found}?" if found else ""


def _key(option: Option) -> str:
    return option.name.replace("-", "_")
