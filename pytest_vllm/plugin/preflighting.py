"""`pytest-vllm preflight`: what can be known about a target without starting anything."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.preflight import preflight, read_host_facts
from pytest_vllm.domain.errors import VllmError
from pytest_vllm.domain.expectation import plain_forecast
from pytest_vllm.domain.preflight.outcome import SCHEMA, plain_facts
from pytest_vllm.domain.record import to_plain
from pytest_vllm.domain.text import redact
from pytest_vllm.plugin.header import refuse_ambiguous_image
from pytest_vllm.plugin.options import read_target
from pytest_vllm.plugin.rules import read_rules
from pytest_vllm.plugin.signals import Signals
from pytest_vllm.plugin.verb import run_verb
from pytest_vllm.reports.preflight import preflight_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_vllm.domain.preflight.outcome import Preflight

_JSON = "--json"
_SIGNAL_BASE = 128
_HELP = """usage: pytest-vllm preflight [--json] [--vllm-... options of pytest]

Looks at the engine, the image, the host, the model and the arguments, and starts no server.
Exit code: 0 a start can be tried, 1 it cannot work (image, model or arguments), 75 not on this
host or network, 4 the options or the profile make no sense: all that a run refuses by its rules,
such as an expired waiver.

  --json                    print findings and facts as JSON
  --vllm-host-facts=FILE    plan for another host: a run.json or the --json output from there
"""


class PreflightVerb:
    """Looks, prints and ends in place of a test run.

    Args:
        as_json: Whether to print JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.ran = False

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Resolve the target as a run would, look and print."""
        self.ran = True
        signals = Signals()
        signals.take()
        try:
            target, profile = read_target(config)
            read_rules(config, target, profile)
            named = target.settings["host-facts"].value
            file = Path(config.invocation_params.dir) / str(named)
            outcome = preflight(
                target,
                env=os.environ,
                host=read_host_facts(file) if named else None,
                on_step=_say,
            )
            refuse_ambiguous_image(outcome.facts.image, profile)
        except VllmError as error:
            print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
            return error.exit_code
        except KeyboardInterrupt:
            return _SIGNAL_BASE + (signals.ended_by or signal.SIGINT)
        finally:
            signals.give_back()
        text = _json(outcome) if self._as_json else preflight_text(outcome)
        print(redact(text, target.secrets(os.environ)), end="")  # noqa: T201 - the verb's output
        return outcome.exit_code


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    if any(word in ("-h", "--help") for word in words):
        print(_HELP, end="")  # noqa: T201 - the help
        return 0
    rest = [word for word in words if word != _JSON]
    return run_verb(rest, PreflightVerb(as_json=_JSON in words))


def _say(step: str) -> None:
    """Tell a person who waits what for."""
    if sys.stderr.isatty():
        print(f"preflight: {step} ...", file=sys.stderr)  # noqa: T201 - for the terminal


def _json(outcome: Preflight) -> str:
    document = {
        "schema": SCHEMA,
        "exit_code": outcome.exit_code,
        "took_s": outcome.took_s,
        "findings": [to_plain(finding) for finding in outcome.findings],
        "facts": plain_facts(outcome.facts),
        "forecast": plain_forecast(outcome.facts),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
