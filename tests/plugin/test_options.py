"""Each option by its four names, with its source in the header."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTACHED: Mapping[str, object] = {
    "url": "http://127.0.0.1:9",
    "model": "some/model",
    "revision": "abc",
    "suite": ["chat"],
    "gpus": "0,1",
    "serve-arg": ["--dtype=half"],
    "env": ["A=1"],
    "timeout": "17",
    "artifacts": "proof",
    "keep": True,
    "monitor": "none",
    "sample-interval": "2",
    "python": "py",
    "entrypoint": "module",
    "docker-flags": "documented",
    "api-key-env": "MY_KEY",
    "request-timeout": "5",
    "concurrency": "4",
    "seed": "7",
    "golden": "some.json",
    "accuracy-floor": "55",
    "accuracy-task": "gsm8k",
    "soak-requests": "300",
    "soak-limit": "90",
    "soak-growth": "8",
    "soak-growth-host": "16",
    "performance": "standard",
    "regression": "warn",
    "report": ["md"],
    "pull": "missing",
    "dns": ["10.0.0.1"],
    "compose-override": "more.json",
    "preflight-ignore": ["all"],
    "phase-timeout": ["load=60"],
    "gpu-busy": "fail",
    "backend": "attach",
}
"""A value for every option that can stand beside --vllm-url."""
OTHERS = {"image", "profile", "baseline", "host-facts", "sign-key"}


@pytest.fixture(autouse=True)
def _nothing_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the variables that shorten all runs of these tests."""
    for name in ("SOAK_REQUESTS", "PERFORMANCE", "REPORT"):
        monkeypatch.delenv(f"PYTEST_VLLM_{name}", raising=False)


def _header(result: pytest.RunResult) -> str:
    return " ".join(line for line in result.outlines if line.startswith("vllm: "))


def _expect(header: str, source: str) -> None:
    for name, value in ATTACHED.items():
        shown = " ".join(value) if isinstance(value, list) else str(value)
        key = name.replace("-", "_")
        mark = source.format(env=key.upper(), ini=key)
        assert f"{name}={shown} ({mark})" in header, name


def test_every_option_is_tried_here() -> None:
    assert set(ATTACHED) | OTHERS == {option.name for option in OPTIONS}


def test_options_by_command_line(pytester: pytest.Pytester) -> None:
    args = []
    for name, value in ATTACHED.items():
        if value is True:
            args.append(f"--vllm-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            args += [f"--vllm-{name}={item}" for item in values]
    result = pytester.runpytest_subprocess("--collect-only", *args)
    _expect(_header(result), "option")


def test_options_by_environment(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ATTACHED.items():
        text = shlex.join(value) if isinstance(value, list) else str(value)
        monkeypatch.setenv(f"PYTEST_VLLM_{name.upper().replace('-', '_')}", text)
    result = pytester.runpytest_subprocess("--collect-only")
    _expect(_header(result), "env PYTEST_VLLM_{env}")


def test_options_by_profile(pytester: pytest.Pytester) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in ATTACHED.items()]
    pytester.makefile(".toml", mine="\n".join(["schema = 1", "[target]", *lines]))
    result = pytester.runpytest_subprocess("--collect-only", "--vllm-profile=mine.toml")
    _expect(_header(result), "profile mine.toml")


def test_options_by_ini(pytester: pytest.Pytester) -> None:
    lines = [
        f"vllm_{name.replace('-', '_')} = {value[0] if isinstance(value, list) else value}"
        for name, value in ATTACHED.items()
    ]
    pytester.makeini("\n".join(["[pytest]", *lines]))
    result = pytester.runpytest_subprocess("--collect-only")
    _expect(_header(result), "ini vllm_{ini}")


def test_secret_values_are_not_shown(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "--collect-only", "--vllm-url=http://127.0.0.1:9", "--vllm-env=HF_TOKEN=abcdef-secret"
    )
    assert "abcdef-secret" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*HF_TOKEN=[[]redacted[]]*"])


def test_the_suite_option_selects_the_files_that_are_collected(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "--collect-only", "-q", "--vllm-url=http://127.0.0.1:9", "--vllm-suite=models,server"
    )
    files = {line.partition("::")[0] for line in result.outlines if "::" in line}
    # The liveness of each suite comes with it.
    assert files == {"test_models.py", "test_server.py", "test_liveness.py"}


def test_loads_are_measured_unless_they_are_left_out(pytester: pytest.Pytester) -> None:
    """A default run has the suite `performance`, and says how long it takes."""
    arguments = ("--collect-only", "-q", "--vllm-url=http://127.0.0.1:9")
    default = pytester.runpytest_subprocess(*arguments)
    assert any("test_performance.py::test_answered[c8]" in line for line in default.outlines)
    told = pytester.runpytest_subprocess("--collect-only", "--vllm-url=http://127.0.0.1:9")
    told.stdout.fnmatch_lines(
        ["vllm: measures loads for about 30 s, and begins none after 90 s (performance=smoke)"]
    )
    without = pytester.runpytest_subprocess(*arguments, "--vllm-performance=none")
    assert not any("test_performance.py" in line for line in without.outlines)
    without.stdout.fnmatch_lines(["*deselected*"])


def test_a_named_path_replaces_the_bundled_suites(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile("def test_mine(vllm): pass")
    result = pytester.runpytest_subprocess(
        "--collect-only", "-q", "--vllm-url=http://127.0.0.1:9", str(path)
    )
    collected = [line for line in result.outlines if "::" in line]
    assert [line.rpartition("::")[2] for line in collected] == ["test_mine"]


def test_without_a_path_the_testpaths_of_the_project_do_not_win(
    pytester: pytest.Pytester,
) -> None:
    """Naming a server and no path runs the bundled suites, in any project."""
    pytester.makeini("[pytest]\ntestpaths = mine")
    pytester.mkdir("mine").joinpath("test_x.py").write_text("def test_mine(): pass")
    result = pytester.runpytest_subprocess("--collect-only", "-q", "--vllm-url=http://127.0.0.1:9")
    assert any("test_completions.py" in line for line in result.outlines)
    assert not any("test_mine" in line for line in result.outlines)


def test_the_projects_own_file_patterns_do_not_hide_the_suites(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\npython_files = spec_*.py")
    arguments = ("--collect-only", "-q", "--vllm-url=http://127.0.0.1:9", "--vllm-suite=models")
    result = pytester.runpytest_subprocess(*arguments)
    assert any(line.startswith("test_models.py::") for line in result.outlines)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--markers",),
        ("--fixtures",),
        ("--collect-only",),
        ("--collect-only", "-k", "usage"),
        ("--collect-only", "-q", "-m", "vllm_check"),
        ("--version",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "target",
    [
        ("--vllm-image=none/such:1", "--vllm-model=/not/there"),
        ("--vllm-profile=broken.toml", "--vllm-url=http://127.0.0.1:9"),
    ],
    ids=["no-model", "broken-profile"],
)
def test_looking_needs_no_server_no_docker_and_no_valid_target(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    target: tuple[str, ...],
) -> None:
    """Options that only look work with no engine, no network and a broken profile."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    pytester.makefile(".toml", broken="schema = [")
    result = pytester.runpytest_subprocess(*arguments, *target)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    if "--collect-only" in arguments:
        assert result.stdout.str().count("vllm: this target could not run: ") == 1
    assert "Traceback (most" not in result.stdout.str() + result.stderr.str()
