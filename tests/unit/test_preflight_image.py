"""Rules about the image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.image import AbsentImage
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.preflight.image import (
    RULES,
    architecture,
    entrypoint,
    instruction_sets,
    present,
    rivals,
    tag,
    vendor,
)
from pytest_vllm.domain.profile import Profile
from pytest_vllm.plugin.header import refuse_ambiguous_image
from tests.unit.launches import (
    found,
    make_bare_host,
    make_engine,
    make_gpu,
    make_host,
    make_image,
    make_launch,
    make_target,
    only,
)

DENIED = "pull access denied for rocm/vlm, repository does not exist or may require 'docker login'"
UNKNOWN = "manifest for rocm/vllm:9 not found: manifest unknown: manifest unknown"


def test_a_sound_image_is_not_worth_a_word() -> None:
    assert [finding for rule in RULES for finding in rule(make_launch())] == []


def test_an_absent_image_is_the_fault_of_the_image_and_near_names_are_told() -> None:
    absent = AbsentImage(asked="rocm/vllm:1.1", near=("rocm/vllm:1.0",))
    finding = only(present, make_launch(image=None, absent=absent))
    assert (finding.id, finding.ref, finding.fault) == ("image.absent", "D3", Fault.IMAGE)
    assert finding.stops
    assert "rocm/vllm:1.0" in finding.seen
    assert finding.cure == (
        "--vllm-image=rocm/vllm:1.0, or docker pull rocm/vllm:1.1, or --vllm-pull=missing"
    )


def test_an_image_that_its_registry_has_is_best_pulled() -> None:
    absent = AbsentImage(asked="rocm/vllm:1.1", near=("rocm/vllm:1.0",), registry="found")
    finding = only(present, make_launch(image=None, absent=absent))
    assert "its registry has it" in finding.seen
    assert finding.cure.startswith("docker pull rocm/vllm:1.1")


@pytest.mark.parametrize(
    ("answer", "ref", "shown"),
    [
        (UNKNOWN, "D3", True),
        (DENIED, "D4", True),
        ("Get https://x/v2/: dial tcp: lookup x: no such host", "D3", False),
        ("toomanyrequests: You have reached your pull rate limit", "D3", False),
    ],
)
def test_what_a_registry_answers_counts_where_it_knows_something(
    answer: str, ref: str, *, shown: bool
) -> None:
    absent = AbsentImage(asked="rocm/vllm:9", registry="error", answer=answer)
    finding = only(present, make_launch(image=None, absent=absent))
    assert finding.ref == ref
    assert (answer in finding.seen) is shown


@pytest.mark.parametrize(
    ("answer", "ref", "rejects"),
    [
        (UNKNOWN, "D3", True),
        (DENIED, "D4", True),
        ("toomanyrequests: You have reached your pull rate limit", "D5", False),
        ("Get https://x/v2/: dial tcp 192.0.2.1:443: i/o timeout", "D6", False),
        ("something that nobody has seen before", "D6", False),
    ],
)
def test_an_image_that_cannot_be_pulled_blames_who_is_to_blame(
    answer: str, ref: str, *, rejects: bool
) -> None:
    absent = AbsentImage(asked="rocm/vllm:9", registry="error", answer=answer)
    finding = only(present, make_launch(make_target(pull="missing"), image=None, absent=absent))
    assert (finding.id, finding.ref) == ("image.not-pullable", ref)
    assert finding.stops
    assert finding.fault.rejects is rejects


def test_a_registry_that_is_silent_does_not_stop_a_pull() -> None:
    absent = AbsentImage(asked="rocm/vllm:9", answer="no answer within 1 s")
    finding = only(present, make_launch(make_target(pull="missing"), image=None, absent=absent))
    assert finding.severity is Severity.WARNING


def test_an_image_that_will_be_pulled_must_be_for_this_machine() -> None:
    absent = AbsentImage(
        asked="rocm/vllm:9", registry="found", digest="sha256:1", platforms=("linux/arm64",)
    )
    target = make_target(pull="missing")
    first, second = found(present, make_launch(target, image=None, absent=absent))
    assert (first.id, first.ref) == ("image.architecture", "D20")
    assert first.stops
    assert second.severity is Severity.NOTE
    assert "sha256:1" in second.seen


def test_on_a_plan_an_absent_image_is_only_not_looked_at() -> None:
    host = make_host(source="mi300x.json")
    absent = AbsentImage(asked="rocm/vllm:9")
    assert only(present, make_launch(image=None, absent=absent, host=host)).severity is (
        Severity.NOTE
    )


def test_an_image_for_another_machine_is_refused() -> None:
    finding = only(architecture, make_launch(image=make_image(architecture="arm64")))
    assert (finding.ref, finding.fault) == ("D20", Fault.IMAGE)
    assert "arm64" in finding.seen
    assert "amd64" in finding.seen


def test_on_a_plan_the_machine_of_the_other_host_counts() -> None:
    host = make_host(source="f.json", architecture="arm64")
    facts = make_launch(host=host, engine=make_engine(architecture="amd64"))
    assert only(architecture, facts).ref == "D20"


def test_an_image_that_was_not_compiled_for_the_gpu_is_refused() -> None:
    host = make_host(make_gpu(gfx="gfx1201"))
    finding = only(instruction_sets, make_launch(host=host))
    assert (finding.id, finding.ref, finding.fault) == ("image.gfx", "G3", Fault.IMAGE)
    assert "gfx90a, gfx942" in finding.seen
    assert "gfx1201" in finding.seen
    assert finding.stops


def test_gpus_that_fit_are_named_as_a_way_out() -> None:
    host = make_host(make_gpu(0, gfx="gfx1030"), make_gpu(1), make_gpu(2))
    assert "--vllm-gpus=1,2" in only(instruction_sets, make_launch(host=host)).cure
    assert found(instruction_sets, make_launch(make_target(gpus="1,2"), host=host)) == []


@pytest.mark.parametrize("arch", ["gfx942:sramecc+:xnack-;gfx90a", "gfx9-4-generic"])
def test_features_and_families_of_instruction_sets_are_understood(arch: str) -> None:
    image = make_image(env={"PYTORCH_ROCM_ARCH": arch})
    assert found(instruction_sets, make_launch(image=image)) == []


def test_without_a_gpu_the_instruction_sets_are_not_applicable_and_it_says_why() -> None:
    finding = only(instruction_sets, make_launch(host=make_bare_host()))
    assert finding.severity is Severity.NOT_APPLICABLE
    assert finding.seen == "this host has no AMD GPU (no card)"


@pytest.mark.parametrize(
    ("asked", "env", "severity"),
    [
        ("own/vllm:1", {"ROCM_VERSION": "7.0"}, Severity.NOTE),
        ("own/vllm:1", {}, Severity.NOTE),
        ("own/vllm:cpu-0.32.0", {}, Severity.WARNING),
        ("public.ecr.aws/q/vllm-cpu-release-repo:v0.32.0", {}, Severity.WARNING),
        ("own/vllm:1", {"VLLM_TARGET_DEVICE": "cpu"}, Severity.WARNING),
        ("own/vllm:1", {"VLLM_CPU_DISABLE_AVX512": "0"}, Severity.WARNING),
        ("own/cpu-team:1", {"VLLM_TARGET_DEVICE": "rocm"}, Severity.NOTE),
        ("own/cputools:1", {}, Severity.NOTE),
    ],
)
def test_an_image_that_does_not_say_what_it_is_compiled_for(
    asked: str, env: dict[str, str], severity: Severity
) -> None:
    finding = only(instruction_sets, make_launch(image=make_image(asked=asked, env=env)))
    assert (finding.id, finding.severity) == ("image.gfx-unknown", severity)
    assert "gfx942" in finding.seen
    assert ("build for the CPU" in finding.seen) is (severity is Severity.WARNING)


@pytest.mark.parametrize(
    ("name", "count"), [("68715290b1b9", 0), ("6871", 0), ("68715290b1ba", 1), ("687", 1)]
)
def test_the_id_of_an_image_fixes_its_content(name: str, count: int) -> None:
    image = make_image(id="sha256:68715290b1b905961a6e04dcfbb869fe")
    assert len(found(tag, make_launch(make_target(image=name), image=image))) == count


def test_an_image_for_cuda_is_refused_on_an_amd_host_only() -> None:
    image = make_image(env={"CUDA_VERSION": "12.8.1", "NVIDIA_VISIBLE_DEVICES": "all"})
    finding = only(vendor, make_launch(image=image))
    assert (finding.ref, finding.fault) == ("D20", Fault.IMAGE)
    assert "CUDA 12.8.1" in finding.seen
    bare = only(vendor, make_launch(image=image, host=make_bare_host()))
    assert bare.severity is Severity.NOT_APPLICABLE
    both = make_image(env={"CUDA_VERSION": "12", "ROCM_VERSION": "7.0"})
    assert found(vendor, make_launch(image=both)) == []


@pytest.mark.parametrize(
    ("name", "count"), [("rocm/vllm", 1), ("rocm/vllm:latest", 1), ("rocm/vllm:1.0", 0)]
)
def test_a_name_that_can_mean_anything_deserves_a_warning(name: str, count: int) -> None:
    findings = found(tag, make_launch(make_target(image=name)))
    assert [finding.id for finding in findings] == ["image.mutable-tag"] * count
    assert all(finding.cure == "--vllm-image=rocm/vllm@sha256:0" for finding in findings)
    assert all(finding.severity is Severity.WARNING for finding in findings)


def test_a_tag_of_several_digests_is_named_and_refused_by_promote() -> None:
    """Two pushes of the same layers: which of them the tag has, only the registry knows."""
    names = ("rocm/vllm@sha256:0", "rocm/vllm@sha256:1")
    image = make_image(repo_digests=("other/vllm@sha256:2", *names))
    finding = only(rivals, make_launch(image=image))
    assert finding.severity is Severity.WARNING
    assert "rocm/vllm:1.0 is on this engine by 2 digests" in finding.seen
    assert finding.cure == ", or ".join(f"--vllm-image={name}" for name in names)
    with pytest.raises(TargetError, match="refuses image rocm/vllm:1.0") as caught:
        refuse_ambiguous_image(image, Profile(name="promote", pinned_image=True))
    assert all(f"--vllm-image={name}" in caught.value.advice for name in names)
    refuse_ambiguous_image(image, Profile(name="default"))
    for sound in (make_image(), replace(image, asked=names[1], runs=names[1]), None):
        assert found(rivals, make_launch(image=sound)) == []
        refuse_ambiguous_image(sound, Profile(name="promote", pinned_image=True))


@pytest.mark.parametrize(
    ("words", "cmd", "said"),
    [
        ((), ("/bin/bash",), "starts /bin/bash, which ends at once"),
        ((), (), "starts nothing"),
        (("vllm", "serve"), (), ""),
        (("/bin/sh", "-c", "exec vllm serve"), (), ""),
    ],
)
def test_an_image_that_starts_bash_is_told_with_what_is_done_about_it(
    words: tuple[str, ...], cmd: tuple[str, ...], said: str
) -> None:
    findings = found(entrypoint, make_launch(image=make_image(entrypoint=words, cmd=cmd)))
    assert [finding.severity for finding in findings] == ([Severity.NOTE] if said else [])
    assert all(said in finding.seen and "of our own" in finding.seen for finding in findings)
