"""Read the flags of the very server that will be started, out of its own help.

That takes some 15 s, since vLLM imports PyTorch first; so what was read is kept by the content of
the image (or by interpreter and version) in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.container import OWNER_LABEL, RUN_LABEL
from pytest_vllm.adapters.backends.image import choose_start
from pytest_vllm.adapters.backends.interpreter import find_python, start_words
from pytest_vllm.adapters.backends.owner import this_owner
from pytest_vllm.adapters.model_facts import installed_vllm, python_path
from pytest_vllm.domain.decode import decode
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.arguments import Flag, HelpFacts
from pytest_vllm.domain.serve_parser import has_place_for_model, read_flags
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker import DockerClient

    from pytest_vllm.adapters.backends.image import Start
    from pytest_vllm.domain.facts.image import ImageFacts
    from pytest_vllm.domain.target import Target

LIMIT_S = 120.0
"""Limit for one start of the server that prints its help; on a slow disk imports take long."""
_SCHEMA = 2
_ASKED = (("--help=all",), ("--help",))  # the second for versions that print all of it at once
_NEEDED = ("--model", "--port", "--tensor-parallel-size", "--gpu-memory-utilization", "--dtype")
"""Flags of every version: a help that lacks one is only a part."""
_MODEL = "--model"
_QUIET = {
    "COLUMNS": "200",
    "NO_COLOR": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}


def cached_help(
    target: Target, image: ImageFacts | None, env: Mapping[str, str]
) -> HelpFacts | None:
    """Return what an earlier run has read of the same server, at once; `None` when none has.

    Args:
        target: What is to be launched.
        image: The image, `None` for the process backend.
        env: Our environment.
    """
    try:
        file = _cache_file(target, image, env)
        document = json.loads(file.read_text("utf-8"))
        if not isinstance(document, dict) or document.pop("schema", None) != _SCHEMA:
            return None
        facts = decode(HelpFacts, document, names={"Flag": Flag})
    except (OSError, ValueError, RecursionError, TargetError):
        return None  # a cache that cannot be used is no cache
    return dataclasses.replace(facts, source=f"cache {file}", took_s=0.0) if facts.flags else None


def read_help(
    target: Target,
    image: ImageFacts | None,
    client: DockerClient | None,
    env: Mapping[str, str] = os.environ,
) -> HelpFacts:
    """Return the flags of the server, from the cache or from its help. Never raises.

    Args:
        target: What is to be launched.
        image: The image, `None` for the process backend.
        client: The engine that has the image, `None` for the process backend.
        env: Our environment.

    Returns:
        The flags; none and a `problem` when they could not be read.
    """
    known = cached_help(target, image, env)
    if known is not None:
        return known
    started = time.monotonic()
    source, version = ("container" if image is not None else "process"), ""
    named = False
    try:
        if image is not None and client is not None:
            start = _start(target, image)
            named = bool(start.model_flag)
            facts = _ask(lambda words: _print_in_container(image, client, start.entrypoint, words))
        else:
            version = installed_vllm(find_python(target), python_path(target, env))[0]
            command = start_words(target, find_python(target))
            named = command[-1] == _MODEL
            start_of = command[:-1] if named else command
            facts = _ask(lambda words: _print_in_process(start_of, env, words))
    except (OSError, subprocess.SubprocessError, TargetError) as error:
        facts = HelpFacts(problem=one_line(str(error), 300))
    took_s = round(time.monotonic() - started, 2)
    facts = dataclasses.replace(
        facts,
        source=source,
        version=version,
        took_s=took_s,
        spare_word=named and facts.spare_word,
    )
    if not facts.problem:
        with contextlib.suppress(OSError, TargetError):
            _keep(_cache_file(target, image, env), facts)
    return facts


def _ask(printed: Callable[[tuple[str, ...]], str]) -> HelpFacts:
    """Ask for the help in each way until one lists the flags that every server has."""
    last = ""
    for words in _ASKED:
        text = printed(words)
        flags = read_flags(text)
        names = {name for flag in flags for name in flag.names}
        if names.issuperset(_NEEDED):
            return HelpFacts(flags=flags, spare_word=has_place_for_model(text))
        lines = [line for line in text.splitlines() if line.strip()]
        last = last or (lines[-1] if lines else "nothing")
    return HelpFacts(problem=f"the server printed no list of its flags, but: {one_line(last, 300)}")


def _start(target: Target, image: ImageFacts) -> Start:
    return choose_start(target.text("entrypoint"), entrypoint=image.entrypoint, cmd=image.cmd)


def _print_in_process(
    command: tuple[str, ...], env: Mapping[str, str], words: tuple[str, ...]
) -> str:
    with tempfile.TemporaryDirectory(prefix="pytest-vllm-help-") as folder:
        done = subprocess.run(  # noqa: S603 - the user's interpreter
            [*command, *words],
            env={**env, **_QUIET, "TMPDIR": folder},
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
            start_new_session=True,
        )
    return (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")


def _print_in_container(
    image: ImageFacts, client: DockerClient, command: tuple[str, ...], words: tuple[str, ...]
) -> str:
    """Start the image's server only to print: no network, no GPU, no rights; removed always."""
    from docker.errors import DockerException  # noqa: PLC0415 - loaded when used
    from requests.exceptions import RequestException  # noqa: PLC0415

    labels = {RUN_LABEL: "preflight", OWNER_LABEL: json.dumps(this_owner().facts())}
    try:
        container = client.containers.create(
            image.runs,
            entrypoint=list(command),
            command=list(words),
            environment=_QUIET,
            labels=labels,
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            init=True,
        )
    except (DockerException, RequestException) as error:
        raise OSError(str(error)) from None
    try:
        container.start()
        container.wait(timeout=LIMIT_S)
        output: bytes = container.logs(stdout=True, stderr=False)
        errors: bytes = container.logs(stdout=False, stderr=True, tail=20)
    except (DockerException, RequestException) as error:
        raise OSError(str(error)) from None
    finally:
        with contextlib.suppress(DockerException, RequestException):
            container.remove(force=True, v=True)
    return (output + b"\n" + errors).decode("utf-8", "replace")


def _cache_file(target: Target, image: ImageFacts | None, env: Mapping[str, str]) -> Path:
    """Return where the flags of this very server are kept.

    Raises:
        TargetError: The interpreter is none.
    """
    if image is not None:
        key = f"image {image.id}"
    else:
        python = find_python(target)
        version, changed = installed_vllm(python, python_path(target, env))
        key = f"python {python} {version} {changed}"
    start = target.text("entrypoint")
    name = hashlib.sha256(f"{key} {start}".encode()).hexdigest()[:32]
    base = Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "pytest-vllm" / "help" / f"{name}.json"


def _keep(file: Path, facts: HelpFacts) -> None:
    """Write a cache file whole or not at all: another run may read it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": _SCHEMA, **dataclasses.asdict(facts)}
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as new:
        json.dump(document, new)
    Path(new.name).replace(file)
