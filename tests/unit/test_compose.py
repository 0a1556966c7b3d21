"""The container of a target: compose file, `docker run` line, flags, devices, model, start."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.adapters.backends.container import (
    ContainerSpec,
    compose_json,
    docker_run_line,
    labels_json,
)
from pytest_vllm.adapters.backends.device import choose_devices, visible_variables
from pytest_vllm.adapters.backends.engine import explain_up
from pytest_vllm.adapters.backends.image import MODULE, choose_start, facts_of
from pytest_vllm.adapters.backends.lines import split_lines
from pytest_vllm.adapters.backends.model import cached_snapshot
from pytest_vllm.adapters.backends.plan import plan
from pytest_vllm.adapters.hub_cache import hub_cache
from pytest_vllm.domain.errors import HostError, LaunchFailed, TargetError
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import ImageRef, Target, build_target

NAME = "models--org--model"
COMMIT = "c0ffee" * 6 + "c0ff"
CONTAINER_ONLY = {"init", "stop_grace_period", "image", "entrypoint", "command", "ports"}


def make_target(**options: object) -> Target:
    names = {"image": "org/image:1", **{k.replace("_", "-"): v for k, v in options.items()}}
    settings = resolve(Sources(options=names, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=())


def service_of(spec: ContainerSpec) -> dict[str, Any]:
    services = json.loads(compose_json(spec))["services"]
    assert list(services) == ["vllm"]
    return services["vllm"]


def options_of(line: str) -> tuple[dict[str, list[str]], list[str]]:
    """Parse a `docker run` line as a shell and docker would."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:3] == ["docker", "run", "--init"]
    found: dict[str, list[str]] = {}
    rest = words[3:]
    while rest[0].startswith("--"):
        found.setdefault(rest[0], []).append(rest[1])
        rest = rest[2:]
    return found, rest


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my model$1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("x")
    return folder


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """Device folder with two GPUs."""
    folder = tmp_path / "dev"
    (folder / "dri").mkdir(parents=True)
    for name in ("kfd", "dri/renderD129", "dri/renderD128", "dri/card0"):
        (folder / name).touch()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Hub cache with one complete model."""
    repository = tmp_path / "hub" / NAME
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "model.safetensors"):
        (repository / "blobs" / name).write_text("{}")
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    return tmp_path / "hub"


def test_least_takes_privileges_away(model_folder: Path, tmp_path: Path) -> None:
    target = make_target(model=str(model_folder), serve_arg=["--max-model-len=64"])
    service = service_of(plan(target, "r1", env={}, dev=tmp_path / "none").spec)
    assert service["entrypoint"] == ["vllm", "serve"]
    assert service["command"] == [
        "/models/my model$$1",
        *("--host", "0.0.0.0", "--port", "8000"),
        "--max-model-len=64",
    ]
    assert service["cap_drop"] == ["ALL"]
    assert service["cap_add"] == ["DAC_READ_SEARCH"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["shm_size"] == "16g"
    assert service["init"] is True
    assert service["ports"] == ["127.0.0.1::8000"]
    assert not {"ipc", "devices", "group_add", "container_name", "environment"} & set(service)


def test_documented_is_the_set_of_the_rocm_documentation(
    model_folder: Path, dev: Path, cache: Path
) -> None:
    target = make_target(model=str(model_folder), docker_flags="documented")
    env = {"HF_HUB_CACHE": str(cache)}
    service = service_of(plan(target, "r1", env=env, dev=dev).spec)
    assert service["devices"] == [f"{dev}/kfd:{dev}/kfd", f"{dev}/dri:{dev}/dri"]
    assert service["group_add"] == ["video"]
    assert service["ipc"] == "host"
    assert service["cap_add"] == ["SYS_PTRACE"]
    assert service["security_opt"] == ["seccomp=unconfined"]
    assert [v["target"] for v in service["volumes"]] == [
        "/models/my model$$1",
        "/root/.cache/huggingface/hub",
    ]
    assert not {"shm_size", "cap_drop"} & set(service)


def test_the_evidence_does_not_say_whose_the_server_is(model_folder: Path) -> None:
    """Who starts it by hand from there owns it; the next run must not sweep it."""
    document = json.loads(compose_json(plan(make_target(model=str(model_folder)), "r7").spec))
    assert document["name"] == "pv-r7"
    assert "labels" not in document["services"]["vllm"]


def test_labels_go_on_all_that_is_made() -> None:
    assert json.loads(labels_json({"a": "$b"})) == {
        "services": {"vllm": {"labels": {"a": "$$b"}}},
        "networks": {"default": {"labels": {"a": "$$b"}}},
    }
    merged = {
        "services": {"vllm": {}, "proxy": {}},
        "networks": {"default": None, "theirs": {"external": True}},
        "volumes": {"cache": {}},
    }
    assert json.loads(labels_json({"a": "b"}, merged=merged)) == {
        "services": {"vllm": {"labels": {"a": "b"}}, "proxy": {"labels": {"a": "b"}}},
        "networks": {"default": {"labels": {"a": "b"}}},
        "volumes": {"cache": {"labels": {"a": "b"}}},
    }


def test_secrets_are_passed_by_name_only(model_folder: Path) -> None:
    target = make_target(
        model=str(model_folder), env=["PLAIN=a$b", "VLLM_API_KEY=hidden-value", "FROM_US"]
    )
    planned = plan(target, "r1", env={"FROM_US": "value of ours"})
    texts = compose_json(planned.spec) + docker_run_line(planned.spec)
    service = service_of(planned.spec)
    assert service["environment"] == {"PLAIN": "a$$b", "VLLM_API_KEY": None, "FROM_US": None}
    assert planned.secrets == (("VLLM_API_KEY", "hidden-value"),)
    assert "hidden-value" not in texts
    assert "value of ours" not in texts


def test_a_variable_to_pass_on_must_exist(model_folder: Path) -> None:
    target = make_target(model=str(model_folder), env=["NOT_SET"])
    with pytest.raises(TargetError, match="NOT_SET is to be passed on but is not set"):
        plan(target, "r1", env={})


@pytest.mark.parametrize("flags", ["least", "documented"])
def test_the_docker_run_line_says_the_same_as_the_compose_file(
    model_folder: Path, dev: Path, flags: str
) -> None:
    target = make_target(
        model=str(model_folder),
        docker_flags=flags,
        env=["A=it's $5", "NAMED"],
        serve_arg=["--chat-template='{{ a $b }}'"],
    )
    spec = plan(target, "r1", env={"NAMED": "1"}, dev=dev).spec
    service = service_of(spec)
    undouble = json.loads(json.dumps(service).replace("$$", "$"))
    options, rest = options_of(docker_run_line(spec))
    assert options["--entrypoint"] == undouble["entrypoint"][:1]
    assert rest == [undouble["image"], *undouble["entrypoint"][1:], *undouble["command"]]
    assert options["--publish"] == undouble["ports"]
    assert options["--env"] == ["A=it's $5", "NAMED"]
    assert options["--device"] == [d.partition(":")[0] for d in undouble["devices"]]
    assert options["--group-add"] == undouble["group_add"]
    assert options["--mount"] == [
        f"type=bind,source={v['source']},target={v['target']}" + ",readonly" * v["read_only"]
        for v in undouble["volumes"]
    ]
    for option, key in (
        ("--cap-add", "cap_add"),
        ("--cap-drop", "cap_drop"),
        ("--security-opt", "security_opt"),
    ):
        assert options.get(option, []) == undouble.get(key, [])
    assert options.get("--shm-size", [""])[0] == undouble.get("shm_size", "")
    assert options.get("--ipc", [""])[0] == undouble.get("ipc", "")
    names = {"--label", "--env", "--mount", "--device", "--group-add", "--stop-timeout"}
    names |= {"--cap-add", "--cap-drop", "--security-opt", "--shm-size", "--ipc"}
    assert set(options) <= names | {"--publish", "--entrypoint"}


def test_a_mount_with_a_comma_is_quoted_for_docker(tmp_path: Path) -> None:
    folder = tmp_path / 'a,"b'
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    options, _ = options_of(docker_run_line(plan(make_target(model=str(folder)), "r", env={}).spec))
    quoted = str(folder).replace('"', '""')
    assert options["--mount"][0].startswith(f'type=bind,"source={quoted}"')


def test_the_users_port_is_published(model_folder: Path) -> None:
    target = make_target(model=str(model_folder), serve_arg=["--port 9001"])
    service = service_of(plan(target, "r1", env={}).spec)
    assert service["ports"] == ["127.0.0.1::9001"]
    assert service["command"][1:] == ["--host", "0.0.0.0", "--port", "9001"]


def test_a_process_is_shown_the_chosen_gpus_only(dev: Path, tmp_path: Path) -> None:
    """What cannot be done is refused, not ignored."""
    assert visible_variables("all", dev=tmp_path, sysfs=tmp_path) == {}
    assert visible_variables("0,1", dev=dev, sysfs=dev) == {"ROCR_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(TargetError, match="no GPU 2"):
        visible_variables("2", dev=dev, sysfs=dev)
    with pytest.raises(TargetError, match="--vllm-gpus=none"):
        visible_variables("none", dev=dev, sysfs=dev)


def test_devices_are_render_nodes_in_order_with_their_numeric_groups(dev: Path) -> None:
    kfd, first, second = (str(dev / n) for n in ("kfd", "dri/renderD128", "dri/renderD129"))
    gid = (dev / "kfd").stat().st_gid
    everything = choose_devices("all", dev=dev, sysfs=dev)
    assert everything.devices == (kfd, first, second)
    assert everything.gids == (gid,)
    assert choose_devices("1", dev=dev, sysfs=dev).devices == (kfd, second)
    assert "1 of 2 GPUs not passed" in choose_devices("1", dev=dev, sysfs=dev).note
    assert choose_devices("none", dev=dev, sysfs=dev).devices == ()


def test_render_nodes_of_other_vendors_are_no_gpus_of_ours(dev: Path) -> None:
    vendor = dev / "class" / "drm" / "renderD128" / "device" / "vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x8086\n")
    chosen = choose_devices("0", dev=dev, sysfs=dev)
    assert chosen.devices[1:] == (str(dev / "dri" / "renderD129"),)


def test_a_gpu_that_is_not_there_is_the_users_mistake(dev: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no GPU 2; this host has 2 AMD GPUs"):
        choose_devices("0,2", dev=dev, sysfs=dev)
    with pytest.raises(TargetError, match=r"no \S+/kfd"):
        choose_devices("0", dev=tmp_path, sysfs=tmp_path)
    assert "no" in choose_devices("all", dev=tmp_path, sysfs=tmp_path).note


def test_a_snapshot_is_mounted_with_the_blobs_that_it_links_to(cache: Path) -> None:
    folder = cache / NAME / "snapshots" / COMMIT
    model = plan(make_target(model=str(folder)), "r", env={}).model
    assert model.name == f"/models/{NAME}/snapshots/{COMMIT}"
    assert model.mounts[0].source == str((cache / NAME).resolve())


def test_an_unknown_folder_names_the_closest(model_folder: Path) -> None:
    wrong = str(model_folder).replace("model$1", "mdel$1")
    with pytest.raises(TargetError, match=r"did you mean my model\$1\?"):
        plan(make_target(model=wrong), "r", env={})


def test_a_cached_hub_model_is_read_only_and_offline(cache: Path) -> None:
    env = {"HF_HUB_CACHE": str(cache), "HF_TOKEN": "hf_secret"}
    planned = plan(make_target(model="org/model", revision="main"), "r", env=env)
    service = service_of(planned.spec)
    assert service["environment"] == {"HF_HOME": "/hf", "HF_HUB_OFFLINE": "1"}
    assert service["volumes"][0]["read_only"] is True
    assert service["volumes"][0]["bind"] == {"create_host_path": False}
    assert service["command"][:3] == ["org/model", "--revision", "main"]


def test_a_hub_model_that_is_not_cached_may_be_downloaded(cache: Path) -> None:
    env = {"HF_HUB_CACHE": str(cache), "HF_TOKEN": "hf_secret"}
    service = service_of(plan(make_target(model="org/other"), "r", env=env).spec)
    assert service["environment"] == {"HF_HOME": "/hf", "HF_TOKEN": None}
    assert service["volumes"][0]["read_only"] is False
    assert service["cap_add"] == ["DAC_OVERRIDE"]


def test_a_partial_download_is_not_cached(cache: Path) -> None:
    assert cached_snapshot(cache, "org/model", None) is not None
    assert cached_snapshot(cache, "org/model", "other") is None
    (cache / NAME / "blobs" / "model.safetensors").unlink()
    assert cached_snapshot(cache, "org/model", None) is None


def test_the_hub_cache_is_found_as_huggingface_hub_finds_it() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({}) == Path.home() / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "expected"),
    [
        (["vllm", "serve"], [], ("vllm", "serve")),
        (["/opt/v/bin/vllm", "serve"], ["--help"], ("/opt/v/bin/vllm", "serve")),
        (["python3", "-m", MODULE], [], ("python3", "-m", MODULE)),
        ([], ["/opt/py/bin/python3.12", "-m", MODULE], ("/opt/py/bin/python3.12", "-m", MODULE)),
        ([], ["/bin/sh", "-c", f"exec python -m {MODULE} -x"], ("python", "-m", MODULE)),
        ([], ["/bin/bash"], ("vllm", "serve")),
        ([], [], ("vllm", "serve")),
        (None, [], ("vllm", "serve")),
    ],
)
def test_the_entrypoint_follows_the_image(
    entrypoint: list[str] | None, cmd: list[str], expected: tuple[str, ...]
) -> None:
    start = choose_start("auto", entrypoint=entrypoint, cmd=cmd)
    assert start.entrypoint == expected
    assert start.words("m") == (("--model", "m") if MODULE in expected else ("m",))
    assert start.why


def test_the_entrypoint_can_be_forced() -> None:
    forced = choose_start("module", entrypoint=["vllm", "serve"])
    assert forced.entrypoint == ("python3", "-m", MODULE)
    assert choose_start("vllm", entrypoint=["python", "-m", MODULE]).entrypoint[0] == "vllm"


def test_an_image_runs_by_digest_or_by_id() -> None:
    digest = "sha256:" + "a" * 64
    attributes = {
        "Id": "sha256:" + "b" * 64,
        "RepoDigests": [f"other/x@{digest}", f"vllm/vllm-openai-rocm@{digest}"],
        "Config": {"Env": ["PYTORCH_ROCM_ARCH=gfx90a;gfx942"], "Entrypoint": ["vllm", "serve"]},
    }
    facts = facts_of(attributes, ImageRef.parse("docker.io/vllm/vllm-openai-rocm:v1"))
    assert facts.runs == f"vllm/vllm-openai-rocm@{digest}"
    assert facts.env["PYTORCH_ROCM_ARCH"] == "gfx90a;gfx942"
    index = "sha256:" + "c" * 64
    both = {**attributes, "RepoDigests": [f"mine@{digest}", f"mine@{index}"]}
    assert facts_of(both, ImageRef.parse(f"mine@{index}")).runs == f"mine@{index}"
    assert facts_of(both, ImageRef.parse("mine:1")).rivals == (f"mine@{digest}", f"mine@{index}")
    assert facts_of(both, ImageRef.parse(f"mine@{index}")).rivals == ()
    assert facts_of(both, ImageRef.parse(str(attributes["Id"]))).rivals == ()
    assert facts.rivals == ()  # of another repository
    built_here = facts_of({**attributes, "RepoDigests": []}, ImageRef.parse("mine:1"))
    assert built_here.runs == attributes["Id"]


@pytest.mark.parametrize(
    ("said", "kind", "ref", "words"),
    [
        (
            'error gathering device information while adding custom device "/dev/kfd": no file',
            HostError,
            "D11",
            "--vllm-gpus=none",
        ),
        (
            "Unable to find group video: no matching entries in group file",
            HostError,
            "D12",
            "least",
        ),
        ("Bind for 127.0.0.1:80 failed: port is already allocated", HostError, "D9", "run again"),
        ('exec: "x": executable file not found in $PATH: unknown', LaunchFailed, "D8", "x serve"),
        ("something new", HostError, None, "compose.json"),
    ],
)
def test_the_engines_refusal_is_explained(
    said: str, kind: type[HostError | LaunchFailed], ref: str | None, words: str
) -> None:
    noise = " Network pv-x_default  Creating\n Container pv-x-vllm-1  Starting\n"
    error = explain_up(Exception(f'Command c returned 1: """{noise}{said}\n""".'), sent="x serve")
    assert isinstance(error, kind)
    assert re.search(re.escape(said), error.message)
    assert "Creating" not in error.message
    assert error.diagnosis is not None
    assert error.diagnosis.ref == ref
    assert words in str(error)


def test_log_bytes_become_lines() -> None:
    chunks = [b"a\r", b"\nb", b"c\n\n", b" 1%\r 2%\r", b"\xff\xfe\n", b"end"]
    assert list(split_lines(chunks)) == ["a", "bc", "", " 1%", " 2%", "\ufffd\ufffd", "end"]
