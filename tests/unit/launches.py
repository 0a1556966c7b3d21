"""Facts of launches for the rules of the preflight: a sound one, and parts to spoil it with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.facts import LaunchFacts
from pytest_vllm.domain.facts.engine import EngineFacts
from pytest_vllm.domain.facts.host import DeviceNode, Gpu, HostFacts
from pytest_vllm.domain.facts.image import ImageFacts
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import Target, build_target

if TYPE_CHECKING:
    from pytest_vllm.domain.finding import Finding
    from pytest_vllm.domain.preflight import Rule

GIB = 2**30
MI300X_BYTES = 206141652992
KFD = DeviceNode(path="/dev/kfd", gid=109, group="render", mode=0o660, usable=True)


def make_target(**options: object) -> Target:
    """Make a target of options by name, `_` for `-`; a Docker one unless told otherwise."""
    given = {key.replace("_", "-"): value for key, value in options.items()}
    named = given if {"url", "backend"} & set(given) else {"image": "rocm/vllm:1.0", **given}
    asked = named if "url" in named else {"model": "org/model", **named}
    settings = resolve(Sources(options=asked, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


def make_gpu(index: int = 0, **values: Any) -> Gpu:
    """Make an idle MI300X."""
    gpu = Gpu(
        index=index,
        name="AMD Instinct MI300X OAM",
        gfx="gfx942",
        bdf=f"0000:{5 + index:02x}:00.0",
        render_node=f"/dev/dri/renderD{128 + index}",
        gid=109,
        vram_total_bytes=MI300X_BYTES,
        vram_used_bytes=297771008,
    )
    return replace(gpu, **values)


def make_host(*gpus: Gpu, **values: Any) -> HostFacts:
    """Make a host with some GPUs, one MI300X by default."""
    gpus = gpus or (make_gpu(),)
    nodes = tuple(replace(KFD, path=gpu.render_node) for gpu in gpus)
    host = HostFacts(
        hostname="box",
        architecture="amd64",
        gpus=gpus,
        gpus_by="sysfs",
        kfd=KFD,
        render_nodes=nodes,
        numa_balancing=False,
        shm_bytes=700 * GIB,
        memory_bytes=1500 * GIB,
        memory_free_bytes=1400 * GIB,
        swap_bytes=0,
        cache="/data/hub",
        cache_free_bytes=2000 * GIB,
    )
    return replace(host, **values)


def make_bare_host(**values: Any) -> HostFacts:
    """Make a host without a GPU."""
    host = make_host()
    bare = replace(host, gpus=(), gpus_reason="no card", gpus_by="", kfd=None, render_nodes=())
    return replace(bare, **values)


def make_engine(**values: Any) -> EngineFacts:
    """Make an ordinary engine on this host."""
    engine = EngineFacts(
        endpoint="unix:///var/run/docker.sock",
        source="default",
        kind="docker",
        version="28.0.1",
        api="1.48",
        architecture="amd64",
        compose="2.40.3",
        data_root="/var/lib/docker",
        data_free_bytes=500 * GIB,
        memory_bytes=1500 * GIB,
    )
    return replace(engine, **values)


def make_image(**values: Any) -> ImageFacts:
    """Make an image for gfx942 that starts a server."""
    image = ImageFacts(
        asked="rocm/vllm:1.0",
        id="sha256:0",
        runs="rocm/vllm@sha256:0",
        repo_digests=("rocm/vllm@sha256:0",),
        entrypoint=("vllm", "serve"),
        env={"PYTORCH_ROCM_ARCH": "gfx90a;gfx942"},
        architecture="amd64",
    )
    return replace(image, **values)


def make_launch(target: Target | None = None, **parts: Any) -> LaunchFacts:
    """Make the facts of a launch that nothing stands against."""
    facts = LaunchFacts(
        target=target or make_target(), host=make_host(), engine=make_engine(), image=make_image()
    )
    return replace(facts, **parts)


def found(rule: Rule, facts: LaunchFacts) -> list[Finding]:
    """Apply one rule."""
    return list(rule(facts))


def only(rule: Rule, facts: LaunchFacts) -> Finding:
    """Apply one rule that has to find exactly one thing."""
    (finding,) = rule(facts)
    return finding
