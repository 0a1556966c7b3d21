"""Variables that choose GPUs are read as ROCr, HIP and vLLM read them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.preflight import visibility
from tests.unit.launch_facts import MI250, make_host, make_launch

FATAL, WARNING = Severity.FATAL, Severity.WARNING
ROCM = {"PYTORCH_ROCM_ARCH": "gfx90a"}
HIP, CUDA, ROCR = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
HIDDEN, CONFLICT = "arguments.hidden-gpus", "arguments.visible-devices"


def judged(*args: str, count: int = 8, variables: Any = None, **options: Any) -> list[Any]:
    host = make_host(count, MI250, variables=variables or {})
    facts = make_launch(*args, image_env=options.pop("image_env", ROCM), host=host, **options)
    return [finding for rule in visibility.RULES for finding in rule(facts)]


@pytest.mark.parametrize(
    ("env", "args", "name", "ref"),
    [
        ((f"{HIP}=17",), (), HIDDEN, "G1"),
        ((f"{CUDA}=8",), (), HIDDEN, "G1"),
        ((f"{ROCR}=8",), (), HIDDEN, "G1"),
        ((f"{ROCR}=",), (), HIDDEN, "G1"),
        ((f"{HIP}=-1",), (), HIDDEN, "G1"),
        ((f"{HIP}=0",), ("-tp=2",), HIDDEN, "G6"),
        ((f"{HIP}=0,17,1",), ("-tp=2",), HIDDEN, "G6"),
        ((f"{ROCR}=0,1",), ("-tp=4",), HIDDEN, "G6"),
        ((f"{ROCR}=GPU-12ab34",), ("-tp=2",), HIDDEN, "G6"),
        ((f"{ROCR}=0,1", f"{HIP}=2,3"), (), CONFLICT, "G1"),
        ((f"{ROCR}=2,3", f"{HIP}=0,2"), ("-tp=2",), CONFLICT, "G6"),
        ((f"{ROCR}=", f"{HIP}=0"), (), CONFLICT, "G1"),
    ],
)
def test_too_few_gpus_are_left(env: Any, args: Any, name: str, ref: str) -> None:
    (finding,) = judged(*args, env=list(env))
    assert (finding.id, finding.severity, finding.ref) == (name, FATAL, ref)
    assert finding.fault.rejects
    for variable in env:
        assert variable in finding.seen
        assert variable.partition("=")[0] in finding.cure


@pytest.mark.parametrize(
    "env",
    [
        (f"{HIP}=0,17",),
        (f"{ROCR}=2,3", f"{HIP}=0,2"),
        (f"{HIP}=",),  # HIP shows all, PyTorch counts none: not sure enough to refuse
    ],
)
def test_what_may_still_work_is_a_warning(env: Any) -> None:
    (finding,) = judged(env=list(env))
    assert finding.severity is WARNING


@pytest.mark.parametrize(
    ("env", "args"),
    [
        ((f"{HIP}=0", f"{CUDA}=0"), ()),
        ((f"{HIP}=0,1",), ("-tp=2",)),
        ((f"{HIP}=7",), ()),
        ((f"{CUDA}=",), ()),
        ((f"{ROCR}=2,3", f"{HIP}=0,1"), ("-tp=2",)),
        ((f"{ROCR}=GPU-12ab34",), ()),
        ((f"{ROCR}=GPU-12ab34,GPU-56", f"{HIP}=1"), ()),
        ((f"{ROCR}=odd words", f"{HIP}=7"), ("-tp=4",)),
        ((f"{HIP}=odd words",), ("-tp=4",)),
        ((), ("-tp=4",)),
    ],
)
def test_variables_that_fit(env: Any, args: Any) -> None:
    assert judged(*args, env=list(env)) == []


@pytest.mark.parametrize(
    ("count", "image_env", "severity"), [(8, {}, FATAL), (0, ROCM, FATAL), (0, {}, WARNING)]
)
def test_hip_and_cuda_that_differ_are_told_without_a_gpu_too(
    count: int, image_env: Any, severity: Severity
) -> None:
    env = [f"{HIP}=0", f"{CUDA}=1"]
    findings = judged(env=env, count=count, image_env=image_env)
    assert [f.severity for f in findings if f.id == CONFLICT] == [severity]


def test_without_a_gpu_nothing_can_be_counted() -> None:
    findings = judged(env=[f"{HIP}=17"], count=0)
    assert {(f.id, f.severity) for f in findings} == {
        (HIDDEN, Severity.NOT_APPLICABLE),
        (CONFLICT, Severity.NOT_APPLICABLE),
    }


def test_a_container_inherits_no_variables() -> None:
    ours = {HIP: "0", CUDA: "1"}
    assert judged(variables=ours) == []
    assert judged(variables=ours, backend="process")
    assert judged(variables=ours, env=[HIP, CUDA])


def test_gpus_handed_over_are_those_that_a_variable_counts() -> None:
    (finding,) = judged(gpus="0,1", env=[f"{HIP}=2"])
    assert finding.severity is FATAL
    assert "of 2 GPUs" in finding.seen
    (ours,) = judged(gpus="4,5", backend="process", variables={HIP: "4"})
    assert f"{ROCR}=4,5 and {HIP}=4" in ours.seen
    assert ours.cure == f"drop {HIP}, since --vllm-gpus chooses already"
    assert judged(gpus="4,5", backend="process", variables={HIP: "1", ROCR: "0"}) == []


def test_what_hides_no_gpu_is_not_told() -> None:
    """Too few GPUs are another rule's; without a variable there is nothing to drop."""
    assert judged("-tp=3", count=1) == []
    assert judged("-tp=3", count=1, env=[f"{ROCR}=0"]) == []
    assert judged("-tp=3", count=1, env=[f"{CUDA}="]) == []
    (finding,) = judged("-tp=16", count=8, env=[f"{HIP}=0,1"])
    assert (finding.id, finding.severity) == (HIDDEN, FATAL)
