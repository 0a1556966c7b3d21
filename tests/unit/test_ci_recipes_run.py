"""The shell pieces of the recipes of docs/ci, run as their CI runs them.

The programs that they call are stand-ins which write down what they were asked; that the real ones
take these words is shown by test_ci_recipes.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.ci_recipes import BUILDKITE, GITHUB, GITLAB, JENKINS, load, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[1] / "data" / "ci"
SECRET = "-----BEGIN no KEY-----"  # noqa: S105 - as it says
GITHUB_SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
GITLAB_SHELL = ("bash", "-eo", "pipefail")
"""https://docs.github.com/actions/reference/workflow-syntax-for-github-actions (shell: bash);
GitLab's runner writes `set -eo pipefail` into its script; Jenkins runs sh -xe, Buildkite
bash -e -c."""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of programs that do nothing but write down how they were called."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in ("pytest", "pytest-vllm", "python3", "curl", "buildkite-agent", "sleep"):
        folder.joinpath(name).symlink_to(DATA / "fake")
    monkeypatch.setenv("FAKES", str(folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("IMAGE", "TAG", "MODEL", "PROFILE"):
        monkeypatch.setenv(name, f"the {name.lower()}")
    monkeypatch.setenv("PYTEST_VLLM_VERSION", "0.1.0")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return folder


@pytest.fixture
def job(tmp_path: Path, fakes: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a piece of a recipe as its CI does, in a folder of its own."""
    folder = tmp_path / "job"
    folder.mkdir()
    assert fakes.exists()

    def run(shell: tuple[str, ...], text: str, **env: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script"
        script.write_text(text)
        return subprocess.run(
            [*shell, str(script)],
            cwd=folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def _calls(fakes: Path, program: str) -> list[str]:
    file = fakes / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize(
    ("codes", "attempts", "code"),
    [
        ("0", 1, 0),
        ("1", 1, 1),
        ("4", 1, 4),
        ("143", 1, 143),
        ("75 0", 2, 0),
        ("75 1", 2, 1),
        ("75 75 0", 3, 0),
        ("75 75 75 0", 3, 75),
    ],
)
def test_github_tries_again_after_75_and_only_then(
    job: Callable[..., subprocess.CompletedProcess[str]],
    fakes: Path,
    codes: str,
    attempts: int,
    code: int,
) -> None:
    fakes.joinpath("pytest.codes").write_text(codes)
    output = fakes / "output"
    piece = pieces(GITHUB)["accept: Accept the image"]
    done = job(GITHUB_SHELL, piece, GITHUB_OUTPUT=str(output), PAUSE_S="60")
    assert done.returncode == code
    assert len(_calls(fakes, "pytest")) == attempts
    assert _calls(fakes, "sleep") == ["sleep 60"] * (attempts - 1)
    assert output.read_text() == f"exit-code={code}\n"
    assert ("::warning title=INCONCLUSIVE::" in done.stdout) is (code == 75)


TOKENS = {
    "gitlab": (
        *("CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "CI_DEPENDENCY_PROXY_PASSWORD"),
        *("CI_REPOSITORY_URL", "CI_DEPLOY_PASSWORD", "CI_DEPLOY_USER"),
    ),
    "buildkite": ("BUILDKITE_AGENT_ACCESS_TOKEN",),
}
"""What a CI gives to every job, and nothing that runs beside a foreign image needs."""


def _jenkins_accept() -> str:
    return next(text for text in pieces(JENKINS).values() if "--vllm-image" in text)


@pytest.mark.parametrize("has_baseline", [True, False])
@pytest.mark.parametrize(
    ("ci", "shell", "piece"),
    [
        ("github", GITHUB_SHELL, pieces(GITHUB)["accept: Accept the image"]),
        ("gitlab", GITLAB_SHELL, pieces(GITLAB)["accept"]),
        ("jenkins", ("sh", "-xe"), _jenkins_accept()),
        ("buildkite", ("bash", "-e"), pieces(BUILDKITE)["accept"]),
    ],
    ids=["github", "gitlab", "jenkins", "buildkite"],
)
def test_the_newest_run_of_the_last_promotion_is_the_baseline(
    job: Callable[..., subprocess.CompletedProcess[str]],
    fakes: Path,
    tmp_path: Path,
    ci: str,
    shell: tuple[str, ...],
    piece: str,
    *,
    has_baseline: bool,
) -> None:
    folder = tmp_path / "job" / "baseline"
    if has_baseline:
        for run in ("20261122-181930-3fa9c1", "20261123-090211-81c0de"):
            folder.joinpath("evidence", run).mkdir(parents=True)
            folder.joinpath("evidence", run, "run.json").touch()
    env = {"GITHUB_OUTPUT": str(fakes / "output"), "PAUSE_S": "0", "BASELINE": "baseline"}
    tokens = dict.fromkeys(TOKENS.get(ci, ()), SECRET)
    done = job(shell, piece, **env, **tokens)
    assert done.returncode == 0, done.stderr
    baseline = " --vllm-baseline=baseline/evidence/20261123-090211-81c0de/run.json"
    options = "--vllm-image=the image --vllm-pull=missing --vllm-model=the model"
    wanted = f"pytest {options} --vllm-profile=the profile{baseline * has_baseline}"
    assert _calls(fakes, "pytest") == [wanted]
    assert SECRET not in fakes.joinpath("pytest.env").read_text()
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("promoted", [True, False])
def test_gitlab_fetches_the_baseline_in_a_job_of_its_own(
    job: Callable[..., subprocess.CompletedProcess[str]],
    fakes: Path,
    tmp_path: Path,
    *,
    promoted: bool,
) -> None:
    if promoted:
        run = fakes / "baseline" / "evidence" / "run"
        run.mkdir(parents=True)
        run.joinpath("run.json").touch()
    gitlab = dict.fromkeys(("CI_API_V4_URL", "CI_PROJECT_ID", "CI_DEFAULT_BRANCH"), "x")
    done = job(GITLAB_SHELL, pieces(GITLAB)["baseline"], **gitlab, CI_JOB_TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.joinpath("job", "baseline").rglob("*.json")] == [
        "run.json"
    ] * promoted
    assert ("There is no evidence of an earlier promotion" in done.stdout) is not promoted
    # the token goes to curl, and is no word of its command line
    assert fakes.joinpath("headers").read_text() == f"JOB-TOKEN: {SECRET}\n"
    assert SECRET not in done.stdout + done.stderr + "".join(_calls(fakes, "curl"))


PROMOTE = {
    "github": (GITHUB_SHELL, pieces(GITHUB)["promote: Verify, sign and promote"]),
    "gitlab": (("bash",), pieces(GITLAB)["promote"]),
    "jenkins": (("sh", "-xe"), list(pieces(JENKINS).values())[-1]),
    "buildkite": (("bash", "-e"), pieces(BUILDKITE)["promote"]),
}
"""GitLab's without `-e`: in a block of lines it promises to look at the last one only.

https://docs.gitlab.com/ci/yaml/script/#split-long-commands
"""


@pytest.mark.parametrize("fails", ["nothing", "verify", "sign", "promote"])
@pytest.mark.parametrize("ci", PROMOTE)
def test_what_is_not_sound_is_not_promoted_and_no_secret_is_left(
    job: Callable[..., subprocess.CompletedProcess[str]],
    fakes: Path,
    tmp_path: Path,
    ci: str,
    fails: str,
) -> None:
    verbs = ("verify", "sign", "promote")
    codes = ["75" if verb == fails else "0" for verb in verbs]
    fakes.joinpath("pytest-vllm.codes").write_text(" ".join(codes))
    key, login = (f"{SECRET} {name}" for name in ("key", "login"))
    texts = {"SIGN_KEY": key, "DOCKER_AUTH_CONFIG": login}
    if ci in ("gitlab", "jenkins"):  # both give secrets as files
        for name, text in (("sign.pem", key), ("auth.json", login)):
            tmp_path.joinpath(name).write_text(text)
        texts = {"SIGN_KEY": str(tmp_path / "sign.pem")}
        texts["DOCKER_AUTH_FILE"] = str(tmp_path / "auth.json")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    shell, piece = PROMOTE[ci]
    done = job(shell, piece, TMPDIR=str(temporary), **texts)
    assert done.returncode == (0 if fails == "nothing" else 75), done.stderr
    run = verbs[: len(verbs) if fails == "nothing" else verbs.index(fails) + 1]
    calls = _calls(fakes, "pytest-vllm")
    assert [call.split()[1] for call in calls] == list(run)
    if fails == "nothing":
        assert calls[0] == "pytest-vllm verify latest --image the image"
        assert calls[-1] == (
            "pytest-vllm promote --run latest --image the image --to the tag "
            "--key acceptance.pub.pem"
        )
    if ci == "github":  # what the programs print stands where nothing is a command
        lines = done.stdout.splitlines()
        token = lines[0].removeprefix("::stop-commands::")
        said = [f"::error::said by {verb}" for verb in run]
        assert lines == [f"::stop-commands::{token}", *said, f"::{token}::"]
        assert len(token) == len(str(uuid.UUID(token)))
    # what the programs were given, what a reader of the log sees, what stays on the disk
    wanted = "secret docker_config_json" if ci == "buildkite" else login
    assert fakes.joinpath("logins").read_text().splitlines() == [f"{verb} {wanted}" for verb in run]
    if "sign" in run:
        wanted = "secret acceptance_sign_key" if ci == "buildkite" else key
        assert fakes.joinpath("keys").read_text().strip() == wanted
    assert SECRET not in done.stdout + done.stderr + "".join(calls)
    assert list(temporary.iterdir()) == []


def _starts(ci: str, code: int | None) -> bool:
    """Tell whether a CI starts the job `promote` after an exit code of `accept`.

    Args:
        ci: Its name.
        code: None where Jenkins starts a build at the stage `Promote`: nothing has set it then.
    """
    if ci == "github":
        wanted: str = load(GITHUB)["jobs"]["promote"]["if"]
        return wanted == f"needs.accept.outputs.exit-code == '{code}'"
    if ci == "gitlab":
        return code in (0, *load(GITLAB)["accept"]["allow_failure"]["exit_codes"])
    if ci == "jenkins":
        when = JENKINS.read_text().partition("stage('Promote')")[2].partition("steps {")[0]
        found = re.search(r"expression \{ (.*) \}", when)
        assert found
        seen = "null" if code is None else f"'{code}'"
        return f"env.EXIT_CODE == {seen}" in found[1].split(" || ")
    soft: list[dict[str, int]] = load(BUILDKITE)["steps"][0]["soft_fail"]
    return code == 0 or {"exit_status": code} in soft


@pytest.mark.parametrize("code", [0, 1, 4, 75])
@pytest.mark.parametrize("ci", PROMOTE)
def test_only_the_verdict_promote_leads_to_a_promotion(
    job: Callable[..., subprocess.CompletedProcess[str]], fakes: Path, ci: str, code: int
) -> None:
    """Either the CI does not start the job, or `verify`, which ends with the verdict, ends it."""
    assert not {"when", "rules", "allow_failure"} & set(load(GITLAB)["promote"])
    assert "allow_dependency_failure" not in load(BUILDKITE)["steps"][1]
    if not _starts(ci, code):
        assert code
        return
    assert code in ((0,) if ci in ("github", "jenkins") else (0, 75))
    fakes.joinpath("pytest-vllm.codes").write_text(str(code))
    texts = dict.fromkeys(("SIGN_KEY", "DOCKER_AUTH_CONFIG", "DOCKER_AUTH_FILE"), "/dev/null")
    shell, piece = PROMOTE[ci]
    done = job(shell, piece, **texts)
    assert done.returncode == code
    verbs = [call.split()[1] for call in _calls(fakes, "pytest-vllm")]
    assert verbs == (["verify"] if code else ["verify", "sign", "promote"])


def test_jenkins_can_start_the_promotion_again() -> None:
    """A stage that is skipped would leave the build green, and the next one without a baseline."""
    assert _starts("jenkins", None)
    options = JENKINS.read_text().partition("options {")[2].partition("\n    }")[0]
    assert "preserveStashes(" in options  # without it `unstash` finds nothing in such a build


@pytest.mark.parametrize(("code", "style"), [(0, "success"), (1, "error"), (75, "warning")])
def test_buildkite_annotates_and_ends_with_the_verdict(
    job: Callable[..., subprocess.CompletedProcess[str]], fakes: Path, code: int, style: str
) -> None:
    fakes.joinpath("pytest.codes").write_text(str(code))
    done = job(("bash", "-e"), pieces(BUILDKITE)["accept"], BASELINE="nowhere")
    assert done.returncode == code
    asked = f"buildkite-agent annotate --style {style} --context acceptance"
    assert asked in _calls(fakes, "buildkite-agent")
    assert fakes.joinpath("annotation").read_text() == "the report\n"


def test_buildkite_keeps_the_evidence_of_a_promotion_as_the_baseline(
    job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    baseline = tmp_path / "kept" / "baseline"
    baseline.joinpath("evidence", "old").mkdir(parents=True)
    done = job(("bash", "-e"), list(pieces(BUILDKITE).values())[-1], BASELINE=str(baseline))
    assert done.returncode == 0, done.stderr
    assert [file.relative_to(baseline) for file in baseline.rglob("run.json")] == [
        Path("evidence/run/run.json")
    ]
    assert not list(baseline.glob("evidence/old"))


@pytest.mark.parametrize("code", [0, 4])
def test_github_always_has_a_summary(
    job: Callable[..., subprocess.CompletedProcess[str]], fakes: Path, code: int
) -> None:
    fakes.joinpath("pytest-vllm.codes").write_text(str(code))
    summary = fakes / "summary"
    piece = pieces(GITHUB)["accept: Summary"]
    assert job(GITHUB_SHELL, piece, GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
    assert ("No evidence was written" in summary.read_text()) is bool(code)
