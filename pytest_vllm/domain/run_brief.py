"""What a run comes down to in a list of runs: read from plain data, without its whole record."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.plain import items, mapping, mappings
from pytest_vllm.domain.record import Material
from pytest_vllm.domain.record_history import upgrade
from pytest_vllm.domain.rounds import figures_in
from pytest_vllm.domain.run_name import read_run_name
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.stored import GPUS, facts_of, is_compared
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_vllm.domain.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelBrief:
    """One load level of a run.

    Attributes:
        name: `c8`, ...
        gated: Whether it is the level that runs are compared by.
        conditions: What the load was, by a name in words.
        figures: Each figure's value in every round that has it.
    """

    name: str
    gated: bool
    conditions: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBrief:
    """A run in short.

    Attributes:
        run_id: Name of its evidence folder when it was made.
        started: When it began, in UTC.
        decision: What it ended in.
        reason: The weightiest reason for that.
        image: The image that was asked for, empty without one.
        digest: `sha256:...` of what ran, or its image ID; empty when it is not known.
        is_id: Whether that is an image ID, which no registry knows and no name can bear.
        model: What was served.
        gpus: The GPUs, equal ones together; empty for none.
        version: Version of vLLM, empty when it is not known.
        profile: Under which profile it was judged.
        outcomes: How many results came to each outcome.
        levels: Its load levels.
        facts: What must be the same for its figures to be compared, see `stored.facts_of`.
    """

    run_id: str
    started: dt.datetime
    decision: Decision
    reason: str = ""
    image: str = ""
    digest: str = ""
    is_id: bool = False
    model: str = ""
    gpus: str = ""
    version: str = ""
    profile: str = ""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    levels: tuple[LevelBrief, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The digest, or `image ID sha256:...`; empty when neither is known."""
        return f"image ID {self.digest}" if self.is_id else self.digest

    @property
    def compared(self) -> LevelBrief | None:
        """The level that runs are compared by, `None` without a load."""
        return next((level for level in self.levels if level.gated), None)


def brief_of(document: Mapping[str, Any], *, where: str) -> RunBrief:
    """Return a run in short.

    Only what is shown is read, so that a thousand runs take seconds: a whole record is decoded
    field by field, which takes many times as long.

    Args:
        document: A parsed `run.json` of any schema.
        where: Name of the file for error messages.

    Raises:
        TargetError: It has no schema that this version knows.
        ValueError: It is no run.
    """
    try:
        return _brief(upgrade(document, where=where))
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"it lacks what every run has: {error}") from None


def brief_record(record: RunRecord) -> RunBrief:
    """Return a record in short."""
    return _brief(
        {
            "run_id": record.run_id,
            "started": record.started,
            "verdict": {"decision": record.verdict.decision, "reasons": record.verdict.reasons},
            "settings": [
                {"name": item.name, "value": item.value, "source": item.source}
                for item in record.settings
            ],
            "launch": record.launch,
            "server": None
            if record.server is None
            else {
                "model": record.server.model,
                "launch_model": record.server.launch_model,
                "version": record.server.version,
            },
            "server_facts": {"version": record.server_facts.version if record.server_facts else ""},
            "backend": record.backend,
            "materials": [asdict(item) for item in record.materials],
            "gpus": record.gpus,
            "facts": record.facts,
            "results": [{"outcome": result.outcome} for result in record.results],
            "performance": record.performance,
        }
    )


def moment(text: str) -> dt.datetime:
    """Return a time as a record writes it, in UTC; without a zone it is UTC.

    Raises:
        ValueError: It is none.
    """
    read = dt.datetime.fromisoformat(text)
    if read.tzinfo is None:
        return read.replace(tzinfo=dt.UTC)
    try:
        return read.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is before or after all years") from None


def _brief(run: Mapping[str, Any]) -> RunBrief:
    settings = {str(item["name"]): item.get("value") for item in run["settings"]}
    server = _server(run.get("server"))
    launch, gpus = mapping(run.get("launch")), mapping(run.get("gpus"))
    facts = facts_of(
        gpus=gpus,
        facts=mapping(run.get("facts")),
        settings=[Setting(name=name, value=value, source="") for name, value in settings.items()],
        server=server,
        backend=str(run.get("backend") or ""),
        materials=[_material(told) for told in mappings(run.get("materials"))],
    )
    runs = str(mapping(launch.get("image")).get("runs") or "")
    asked = str(settings.get("image") or "")
    reasons = run["verdict"].get("reasons") or ("",)
    version = server.version if server is not None else ""
    return RunBrief(
        run_id=read_run_name(str(run["run_id"]), where="run.run_id"),
        started=moment(run["started"]),
        decision=Decision(run["verdict"]["decision"]),
        reason=str(reasons[0]),
        image=asked,
        digest=runs.rpartition("@")[2] or asked.partition("@")[2],
        is_id=bool(runs) and "@" not in runs,
        model=facts["model"] or str(settings.get("model") or ""),
        gpus=facts[GPUS],
        version=version or str(mapping(run.get("server_facts")).get("version") or ""),
        profile=str(settings.get("profile") or ""),
        outcomes=dict(Counter(str(result["outcome"]) for result in items(run.get("results")))),
        levels=tuple(_levels(mapping(run.get("performance")))),
        facts=facts,
    )


def _server(told: object) -> ServerInfo | None:
    """Return what of a server is shown here; the rest of it is nobody's business in a list."""
    if not isinstance(told, dict):
        return None
    return ServerInfo(
        url="",
        model=str(told.get("model") or ""),
        served_names=(),
        max_model_len=None,
        version=str(told.get("version") or ""),
        capabilities=(),
        absent={},
        owned=False,
        launch_model=str(told.get("launch_model") or ""),
    )


def _material(told: Mapping[str, Any]) -> Material:
    kind, name, sha256, of = (str(told.get(key) or "") for key in ("kind", "name", "sha256", "of"))
    return Material(kind=kind, name=name, sha256=sha256, of=of)


def _levels(performance: Mapping[str, Any]) -> Iterator[LevelBrief]:
    for place, level in enumerate(mappings(performance.get("levels"))):
        rounds = mappings(level.get("rounds"))
        names = dict.fromkeys(str(name) for one in rounds for name in mapping(one.get("figures")))
        yield LevelBrief(
            name=str(level.get("name") or place),
            gated=is_compared(level),
            conditions={
                str(name): str(value) for name, value in mapping(level.get("conditions")).items()
            },
            figures={name: tuple(figures_in(rounds, name)) for name in names},
        )
