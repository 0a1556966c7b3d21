"""The rules that a run is judged by, refused before anything starts, by the preflight too."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.waivers import refuse_expired
from pytest_vllm.plugin.header import refuse_mutable_image, refuse_strange_waivers
from pytest_vllm.plugin.options import load_performance, names_paths

if TYPE_CHECKING:
    import pytest

    from pytest_vllm.domain.performance import PerformanceProfile
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.target import Target


def read_rules(
    config: pytest.Config, target: Target, profile: Profile
) -> PerformanceProfile | None:
    """Hold target and waivers against the profile, and read how performance is measured.

    Args:
        config: Of this pytest run.
        target: What is to be accepted.
        profile: The rules.

    Returns:
        How performance is measured, `None` where it is left out.

    Raises:
        TargetError: The profile refuses the image's name, a waiver has expired or is of no check,
            or the performance profile makes no sense.
    """
    refuse_mutable_image(target, profile)
    refuse_expired(profile, dt.datetime.now(dt.UTC).date())
    if not names_paths(config):  # else checks of one's own, known later, may be waived too
        refuse_strange_waivers(profile, ())
    return load_performance(target, profile, base=Path(config.invocation_params.dir))
