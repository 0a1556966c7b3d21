"""Where the CI shows the job that made a run, by the variables that each sets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB = "ci job"
"""Its key among the facts of the environment in a record."""
_URLS = ("CI_JOB_URL", "BUILDKITE_BUILD_URL", "BUILD_URL")
"""GitLab, Buildkite, Jenkins.

https://docs.gitlab.com/ci/variables/predefined_variables/,
https://buildkite.com/docs/pipelines/configure/environment-variables,
https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables
"""
_GITHUB = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
"""https://docs.github.com/actions/reference/workflows-and-actions/variables"""
_URL = re.compile(r"https?://[^\s\"'<>@?]+")


def job_url(env: Mapping[str, str]) -> str:
    """Return the page of the job that this process is a part of, empty outside of a CI.

    What is no plain web address, or holds the name of a user, is left out.
    """
    server, repository, run = (env.get(name, "") for name in _GITHUB)
    github = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else ""
    found = (github, *(env.get(name, "") for name in _URLS))
    return next((url for url in found if _URL.fullmatch(url)), "")
