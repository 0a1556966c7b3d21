"""The look before a launch: gathers facts once, in parallel, and applies the rules to them.

Cheap facts come first. What takes longer (a throw-away container that tries the network, the help
of the server) is only asked when nothing cheap has already ended the run.
"""

from __future__ import annotations

import ipaddress
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.device import choose_devices
from pytest_vllm.adapters.backends.interpreter import check_vllm, find_python, start_words
from pytest_vllm.adapters.backends.plan import plan
from pytest_vllm.adapters.backends.port import claim_port
from pytest_vllm.adapters.facts.client import gather_client
from pytest_vllm.adapters.facts.container import gather_container
from pytest_vllm.adapters.facts.engine import gather_compose, gather_engine
from pytest_vllm.adapters.facts.expectation import gather_cuda, gather_memory, server_variables
from pytest_vllm.adapters.facts.host import gather_host
from pytest_vllm.adapters.facts.hub import try_hub
from pytest_vllm.adapters.facts.image import REGISTRY_S, gather_image
from pytest_vllm.adapters.model_facts import gather_model
from pytest_vllm.adapters.serve_help import cached_help, read_help
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.expectation import with_forecast
from pytest_vllm.domain.facts import LaunchFacts
from pytest_vllm.domain.facts.image import ImageFacts
from pytest_vllm.domain.facts.model import ModelKind
from pytest_vllm.domain.preflight.catalogue import REFS
from pytest_vllm.domain.preflight.outcome import Preflight, check_ignored, judge, read_host
from pytest_vllm.domain.preflight.rules import IDS, RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker import DockerClient

    from pytest_vllm.domain.facts.engine import EngineFacts
    from pytest_vllm.domain.facts.host import HostFacts
    from pytest_vllm.domain.facts.image import AbsentImage
    from pytest_vllm.domain.fit import ModelMemory
    from pytest_vllm.domain.target import Target


def preflight(
    target: Target,
    *,
    env: Mapping[str, str],
    host: HostFacts | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Preflight:
    """Look before the launch.

    Args:
        target: What is to be launched.
        env: Our environment.
        host: Facts of another host to plan for, `None` to look at this one.
        on_step: Told what is looked at, before steps that take longer.

    Raises:
        TargetError: An option is malformed or contradicts another.
    """
    started = time.monotonic()
    check_options(target)
    ignore = _list(target, "preflight-ignore")
    check_ignored(ignore, (*IDS, *REFS))
    look = _Look(target, env=env, host=host)
    try:
        facts = look.first()
        findings = judge(facts, RULES, ignore=ignore)
        for step in (look.try_network, look.read_help):
            if any(finding.stops for finding in findings):
                break
            more = step(facts, on_step)
            if more is not None:
                facts = more
                findings = judge(facts, RULES, ignore=ignore)
    finally:
        look.close()
    took_s = round(time.monotonic() - started, 3)
    return Preflight(facts=facts, findings=tuple(findings), took_s=took_s)


def read_host_facts(file: Path) -> HostFacts:
    """Read the facts of another host (`--vllm-host-facts`).

    Raises:
        TargetError: It cannot be read, or holds no such facts.
    """
    try:
        document = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise TargetError(
            f"--vllm-host-facts: cannot read {file}: {error.strerror}", advice="check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TargetError(
            f"--vllm-host-facts: {file} is not JSON: {error}",
            advice="name a run.json or what `pytest-vllm preflight ... --json` printed",
        ) from None
    return read_host(document, where=str(file))


def check_options(target: Target) -> None:
    """Refuse options that are malformed or cannot have an effect.

    Raises:
        TargetError: One is.
    """
    for text in _list(target, "dns"):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise TargetError(
                f"--vllm-dns: {text!r} is not an IP address", advice="write one such as 10.0.0.2"
            ) from None
    for name in ("dns", "compose-override"):
        if target.backend != "docker" and target.settings[name].value not in (None, ()):
            raise TargetError(
                f"--vllm-{name} is for containers, and the backend is {target.backend}",
                advice=f"drop --vllm-{name}, or name --vllm-image=IMAGE",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the engine said: about itself, and about the image."""

    engine: EngineFacts
    image: ImageFacts | AbsentImage | None


class _Look:
    """One look; keeps the connection to the engine between the steps.

    Args:
        target: What is to be launched.
        env: Our environment.
        host: Facts of another host, `None` to look at this one.
    """

    def __init__(self, target: Target, *, env: Mapping[str, str], host: HostFacts | None) -> None:
        self._target = target
        self._env = env
        self._host = host
        self._client: DockerClient | None = None
        self._memory: ModelMemory | None = None

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()

    def first(self) -> LaunchFacts:
        """Gather what takes no time, all at once."""
        target, env = self._target, self._env
        docker, attach = target.backend == "docker", target.backend == "attach"
        with ThreadPoolExecutor(max_workers=7, thread_name_prefix="preflight") as pool:
            asked = pool.submit(self._ask_engine) if docker else None
            compose = pool.submit(gather_compose, env) if docker else None
            host = pool.submit(self._look_at_host)
            model = pool.submit(gather_model, target, env) if not attach else None
            client = pool.submit(gather_client, str(target.url)) if attach else None
            memory = pool.submit(gather_memory, target, env)
            python = pool.submit(self._check_python)
        python.result()
        found = asked.result() if asked else None
        image = found.image if found else None
        image_facts = image if isinstance(image, ImageFacts) else None
        facts = LaunchFacts(
            target=target,
            host=host.result(),
            cuda_gpus=gather_cuda(host.result(), monitor=target.text("monitor")),
            variables=server_variables(target, image_facts, env),
            engine=_with_compose(found.engine, *compose.result()) if found and compose else None,
            image=image_facts,
            absent=None if image is None or isinstance(image, ImageFacts) else image,
            client=client.result() if client else None,
            model=model.result() if model else None,
        )
        self._check_gpus(facts)
        self._memory = memory.result()
        if target.serve_args.argv and (facts.image is not None or target.backend == "process"):
            facts = replace(facts, arguments=cached_help(target, facts.image, env))
        return self._with_override(self._with_forecast(facts))

    def _ask_engine(self) -> _Found:
        engine, self._client = gather_engine(self._env)
        asked = self._target.image
        if self._client is None or engine.problem or asked is None:
            return _Found(engine=engine, image=None)
        registry_s = REGISTRY_S if self._host is None else 0.0
        return _Found(engine=engine, image=gather_image(self._client, asked, registry_s=registry_s))

    def _check_python(self) -> None:
        """Refuse an interpreter that cannot serve, as the start would.

        Raises:
            TargetError: It is no interpreter, or has no vLLM.
        """
        if self._target.backend == "process" and self._host is None:
            python = find_python(self._target)
            start_words(self._target, python)
            check_vllm(python)

    def _look_at_host(self) -> HostFacts:
        if self._host is not None:
            return self._host
        facts = gather_host(self._env, monitor=self._target.text("monitor"))
        return replace(facts, port_problem=self._try_port())

    def _try_port(self) -> str:
        """Say why a process cannot have the port that the user named."""
        args = self._target.serve_args
        if self._target.backend != "process" or args.port is None:
            return ""
        try:
            claim_port(args.value("--host") or "127.0.0.1", args.port).release()
        except HostError as error:
            return error.message
        return ""

    def _check_gpus(self, facts: LaunchFacts) -> None:
        """Refuse an index of a GPU that the host does not have."""
        asked = self._target.gpus
        if self._target.backend == "attach" or asked in ("all", "none"):
            return
        if facts.host.here:
            choose_devices(asked)
            return
        known = {gpu.index for gpu in facts.host.gpus}
        absent = [index for index in asked.split(",") if int(index) not in known]
        if absent:
            raise TargetError(
                f"--vllm-gpus={asked}: there is no GPU {absent[0]}; {facts.host.hostname} has "
                f"{len(known)}",
                advice="use all, none or indexes that it has",
            )

    def _with_override(self, facts: LaunchFacts) -> LaunchFacts:
        override = self._target.settings["compose-override"].value
        if not isinstance(override, str) or self._target.backend != "docker":
            return facts
        spec = plan(self._target, "preflight", image=facts.image, env=self._env).spec
        return replace(facts, container=gather_container(spec, Path(override), self._env))

    def try_network(self, facts: LaunchFacts, on_step: Callable[[str], None]) -> LaunchFacts | None:
        """Try the way to the hub, where the server will have to download."""
        model = facts.model
        hub = model is not None and model.kind in (ModelKind.HUB, ModelKind.CACHED)
        if model is None or not hub or model.cached or model.offline or not facts.host.here:
            return None
        on_step(f"try the way to the hub for {model.asked}")
        network = try_hub(facts, self._client, self._env)
        return None if network is None else replace(facts, network=network)

    def read_help(self, facts: LaunchFacts, on_step: Callable[[str], None]) -> LaunchFacts | None:
        """Ask the server itself which arguments it knows, once for each image."""
        by_process = self._target.backend == "process"
        ready = by_process or (facts.image is not None and self._client is not None)
        known = facts.arguments is not None or not self._target.serve_args.argv
        if known or not ready or not facts.host.here:
            return None
        on_step("read the server's help, once for this image or interpreter")
        help_facts = read_help(self._target, facts.image, self._client, self._env)
        return self._with_forecast(replace(facts, arguments=help_facts))

    def _with_forecast(self, facts: LaunchFacts) -> LaunchFacts:
        """Reckon again: the help may tell the version, which decides defaults."""
        if self._memory is None:
            return replace(facts, no_forecast="no model is named (--vllm-model)")
        return with_forecast(facts, self._memory)


def _with_compose(engine: EngineFacts, version: str, problem: str) -> EngineFacts:
    return replace(engine, compose=version, compose_problem=problem)


def _list(target: Target, name: str) -> tuple[str, ...]:
    value = target.settings[name].value
    return value if isinstance(value, tuple) else ()
