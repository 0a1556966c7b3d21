"""Records to show and to store: a healthy run, and what can become of it."""

from __future__ import annotations

from typing import Any

from pytest_vllm.domain.checks import Check, CheckResult, Level, Outcome
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.phases import Phase, Progress
from pytest_vllm.domain.record import Change, Comparison, RunRecord
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.verdict import Decision, StartFailure, decide

HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 [bold]markup[/bold] ]]></system-out> ```` fence\n```\n"
    "# heading <script>alert(1)</script> | cell & \x00 \ud800 \u202e rtl \x9b2J \r\n$(rm -rf ~)"
)
"""What a server or a log may say to whoever shows it."""

DIGEST = "sha256:" + "9f86d081884c7d65" * 4
REQUIREMENT = "`total_tokens` MUST equal `prompt_tokens` plus `completion_tokens`."
SUITES = {"server": 6, "models": 5, "completions": 12, "chat": 8, "stream": 22, "errors": 8}


def make_check(name: str = "chat.usage.adds-up", *, level: Level = Level.MUST) -> Check:
    suite = name.partition(".")[0]
    return Check(id=name, suite=suite, level=level, requirement=REQUIREMENT, ref="K04")


def make_exchange(**changes: Any) -> Exchange:
    fields = {
        "method": "POST",
        "url": "http://127.0.0.1:8000/v1/chat/completions",
        "request_headers": (("content-type", "application/json"),),
        "request_body": '{"model": "m"}',
        "status": 200,
        "response_headers": (("content-type", "application/json"),),
        "response_body": '{"usage": {"total_tokens": 21}}',
        "elapsed_ms": 12.5,
    }
    return Exchange(**{**fields, **changes})


def make_result(
    name: str = "chat.usage.adds-up",
    outcome: Outcome = Outcome.PASS,
    message: str = "",
    *,
    level: Level = Level.MUST,
    **changes: Any,
) -> CheckResult:
    exchanges = (make_exchange(),) if outcome in (Outcome.FAIL, Outcome.ERROR) else ()
    fields: dict[str, Any] = {
        "message": message,
        "duration_s": 0.2,
        "exchanges": exchanges,
        **changes,
    }
    return CheckResult(**{"check": make_check(name, level=level), "outcome": outcome, **fields})


def all_passed() -> tuple[CheckResult, ...]:
    return tuple(
        make_result(f"{suite}.point{number}.holds")
        for suite, count in SUITES.items()
        for number in range(count)
    )


def all_not_run() -> tuple[CheckResult, ...]:
    """Return what a failed start leaves: the first check carries it, the others did not run."""
    return tuple(
        make_result(
            result.check.id,
            Outcome.NOT_RUN if index else Outcome.ERROR,
            "not run: no server became ready" if index else "the server did not start",
            exchanges=(),
        )
        for index, result in enumerate(all_passed())
    )


def make_failure(**changes: Any) -> StartFailure:
    fields: dict[str, Any] = {
        "kind": "launch",
        "message": "ValueError: max seq len (131072) needs 12.00 GiB, there are 3.10 GiB",
        "advice": "lower --max-model-len",
        "phase": "load",
        "exit_code": 1,
        "tail": tuple(f"(EngineCore pid=7) line number {n} " + "word " * 40 for n in range(20)),
    }
    return StartFailure(**{**fields, **changes})


def make_phases() -> tuple[Phase, ...]:
    names = ("start", "config", "load", "compile", "kv cache", "api up", "ready", "first token")
    shards = Progress(done=3, total=9, unit="shards")
    return tuple(
        Phase(
            name=name,
            start_s=2.0 * index,
            duration_s=2.0,
            progress=shards if name == "load" else None,
        )
        for index, name in enumerate(names)
    )


def make_comparison() -> Comparison:
    changes = (
        Change(name="chat.usage.adds-up", kind="broken", before="pass", after="fail"),
        Change(name="stream.done.comes", kind="fixed", before="fail", after="pass"),
    )
    return Comparison(run_id="20261121-101010-aabbcc", decision=Decision.PROMOTE, changes=changes)


def make_record(
    results: tuple[CheckResult, ...] | None = None,
    *,
    failure: StartFailure | None = None,
    interrupted: str = "",
    **changes: Any,
) -> RunRecord:
    shown = all_passed() if results is None else results
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    server = ServerInfo(
        url="http://127.0.0.1:8000",
        model=model,
        served_names=(model,),
        max_model_len=2048,
        version="0.32.0",
        capabilities=("chat",),
        absent={},
        owned=True,
    )
    settings = (
        Setting(name="image", value="rocm/vllm:0.32.0", source="option"),
        Setting(name="model", value=model, source="env PYTEST_VLLM_MODEL"),
        Setting(name="serve-arg", value=("--max-model-len", "2048"), source="option"),
        Setting(name="timeout", value=3600.0, source="default"),
        Setting(name="keep", value=False, source="default"),
        Setting(name="revision", value=None, source="default"),
    )
    fields: dict[str, Any] = {
        "run_id": "20261122-181930-3fa9c1",
        "started": "2026-11-22T18:19:30+00:00",
        "duration_s": 41.7,
        "checks_s": 12.2,
        "verdict": decide(shown, failure=failure, interrupted=interrupted),
        "settings": settings,
        "backend": "docker",
        "launch": {
            "image": {"asked": "rocm/vllm:0.32.0", "runs": f"rocm/vllm@{DIGEST}"},
            "command": ["vllm", "serve", model],
            "docker_run": f"docker run --rm rocm/vllm@{DIGEST} serve {model}",
        },
        "server": None if failure else server,
        "failure": failure,
        "phases": make_phases(),
        "gpus": {"monitor": "none", "reason": "sysfs: there is no /sys/class/drm", "gpus": []},
        "results": shown,
        "environment": {"python": "3.11.7"},
    }
    return RunRecord(**{**fields, **changes})


def hostile_record() -> RunRecord:
    """Return a record in which every foreign text is hostile."""
    exchange = make_exchange(
        url=f"http://h/{HOSTILE}",
        request_body=HOSTILE,
        response_body=HOSTILE * 3000,
        response_headers=((HOSTILE, HOSTILE),),
        failure=HOSTILE,
    )
    results = tuple(
        make_result(f"chat.{outcome.name}.x", outcome, HOSTILE, case=HOSTILE, exchanges=(exchange,))
        for outcome in Outcome
    )
    failure = make_failure(message=HOSTILE, advice=HOSTILE, phase=HOSTILE, tail=(HOSTILE,) * 20)
    server = ServerInfo(
        url=f"http://h/{HOSTILE}",
        model=HOSTILE,
        served_names=(HOSTILE,),
        max_model_len=1,
        version=HOSTILE,
        capabilities=(),
        absent={},
        owned=False,
    )
    return make_record(
        results,
        failure=failure,
        server=server,
        warnings=(HOSTILE,),
        environment={HOSTILE: HOSTILE},
        observations=(Observation(name=HOSTILE, value=HOSTILE),),
        samples=(Sample(title=HOSTILE, prompt=HOSTILE, text=HOSTILE),) * 3,
        launch={
            "image": {"runs": HOSTILE},
            "docker_run": HOSTILE,
            "command": [HOSTILE],
            HOSTILE: float("nan"),
        },
        gpus={"monitor": HOSTILE, "reason": HOSTILE, "gpus": []},
        forecast={"verdict": HOSTILE, "gate": HOSTILE, "reason": HOSTILE, "notes": [HOSTILE]},
        settings=(Setting(name="model", value=HOSTILE, source=HOSTILE),),
        comparison=make_comparison(),
        phases=(*make_phases(), Phase(name=HOSTILE, start_s=1.0)),
    )
