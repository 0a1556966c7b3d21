"""What stands in the recipes of docs/ci: their shell pieces, and the commands in these."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[2] / "docs" / "ci"
GITHUB, GITLAB = FOLDER / "github-actions.yml", FOLDER / "gitlab-ci.yml"
JENKINS, BUILDKITE = FOLDER / "Jenkinsfile", FOLDER / "buildkite.yml"
RECIPES = (GITHUB, GITLAB, JENKINS, BUILDKITE)


def load(recipe: Path) -> Any:
    """Read a recipe that is YAML."""
    return YAML(typ="safe").load(recipe)


def pieces(recipe: Path) -> dict[str, str]:
    """Return the shell pieces of a recipe as the shell gets them: place -> text."""
    if recipe == JENKINS:
        # in Groovy's quotes a backslash at the end of a line joins it with the next one
        found = re.findall(r"'''(.*?)'''", JENKINS.read_text(), re.DOTALL)
        return {f"sh {at}": text.replace("\\\n", "") for at, text in enumerate(found)}
    data = load(recipe)
    if recipe == GITHUB:
        return {
            f"{job}: {step['name']}": step["run"]
            for job, body in data["jobs"].items()
            for step in body["steps"]
            if "run" in step
        }
    if recipe == GITLAB:
        return {
            job: "\n".join(data[job].get("before_script", []) + data[job]["script"]) for job in JOBS
        }
    # a single `$` would be replaced when the pipeline is uploaded
    return {step.get("key", step["label"]): _uploaded(step["command"]) for step in data["steps"]}


JOBS = ("baseline", "accept", "promote")
"""The jobs of the recipe for GitLab."""


def _uploaded(command: str) -> str:
    single = re.findall(r"(?<!\$)\$(?!\$).{0,20}", command)
    assert not single, f"replaced at the upload: {single}"
    return command.replace("$$", "$")


def commands(recipe: Path) -> list[list[str]]:
    """Return the words of each `pytest` and `pytest-vllm` that a recipe runs."""
    found = []
    for text in pieces(recipe).values():
        for line in text.replace("\\\n", " ").splitlines():
            start = re.search(r"(?:^|[{;&|(] )\s*(pytest(?:-vllm)? .*)", line)
            if start:
                command = re.split(r" (?:\|\|?|&&|>>?|;) ", start.group(1))[0]
                command = re.sub(r"\$\{(\w+):\+([^}]*)\}", r"\2", command)
                found.append(shlex.split(re.sub(r" (?:\|\||>>).*", "", command)))
    return found
