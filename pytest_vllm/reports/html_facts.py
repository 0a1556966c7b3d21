"""What `report.html` tells about the target, the start and the run, as rows of plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.plain import items, mapping, mappings, number
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.facts import image_digest, image_name, setting, target_facts, time_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.record import RunRecord

_GIB = 2**30
_LABEL = "org.opencontainers.image."
GPU_HEAD = ("GPU", "Kind", "Memory", "Driver", "Partition", "Address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A fact of the target.

    Attributes:
        name: What it is.
        value: One line.
        copied: What a reader may want to copy, empty for nothing.
    """

    name: str
    value: str
    copied: str = ""


def identity(record: RunRecord) -> list[Fact]:
    """Say what exactly was accepted, where and when."""
    image = image_name(record, whole_digest=True)
    facts = []
    for label, text in target_facts(record):
        if label == "Image":
            facts.append(Fact(name=label, value=image, copied=image_digest(record)))
        else:
            facts.append(Fact(name=label, value=text))
    pairs = [
        ("Model revision", _revision(record)),
        ("GPU driver", ", ".join(_drivers(record))),
        ("In the image", ", ".join(_labels(record))),
        ("Host", _host(record)),
        ("Judged by", _rules(record)),
        ("Started", record.started),
        ("Took", time_line(record)),
    ]
    facts += [Fact(name=name, value=one_line(value, 1000)) for name, value in pairs if value]
    return [*facts, Fact(name="Run", value=one_line(record.run_id), copied=record.run_id)]


def which(record: RunRecord) -> str:
    """Name image and model in one short line."""
    asked = setting(record, "model")
    served = record.server.model if record.server is not None else ""
    parts = (image_name(record), one_line(str(asked or served), 200))
    return " with ".join(part for part in parts if part) or one_line(record.run_id)


def gpu_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Return a row for each GPU, under `GPU_HEAD`."""
    return [
        (
            _text(gpu.get("index")) or str(place),
            " ".join(filter(None, (_text(gpu.get("name")), _text(gpu.get("gfx"))))) or "-",
            "-"
            if (size := number(gpu.get("vram_total_bytes"))) is None
            else f"{size / _GIB:.1f} GiB",
            _text(gpu.get("driver")) or "-",
            _text(gpu.get("partition")) or "-",
            _text(gpu.get("bdf")) or "-",
        )
        for place, gpu in enumerate(mappings(record.gpus.get("gpus")))
    ]


def _revision(record: RunRecord) -> str:
    """Return the commit that ran, as preflight resolved it; empty where no model was looked at."""
    model = mapping(record.facts.get("model"))
    found = [item.name for item in record.materials if item.kind == "model" and "@" in item.name]
    told = found[0].rpartition("@")[2] if found else ""
    return _text(model.get("commit")) or _text(model.get("revision")) or told


def _drivers(record: RunRecord) -> dict[str, None]:
    told = (_text(gpu.get("driver")) for gpu in mappings(record.gpus.get("gpus")))
    return dict.fromkeys(driver for driver in told if driver)


def _labels(record: RunRecord) -> Iterator[str]:
    """Yield what the image says of itself: its labels of the OCI, shortened."""
    image = mapping(record.launch.get("image"))
    for name, value in mapping(image.get("labels")).items():
        if str(name).startswith(_LABEL) and value:
            yield f"{str(name).removeprefix(_LABEL)} {_text(value)}"
    if gfx := items(image.get("gfx")):
        yield f"for {' '.join(map(_text, gfx))}"


def _host(record: RunRecord) -> str:
    host = mapping(record.facts.get("host"))
    name = _text(host.get("hostname")) or record.environment.get("host", "")
    system = _text(host.get("system")) or record.environment.get("system", "")
    engine = mapping(record.facts.get("engine"))
    docker = f"{_text(engine.get('kind'))} {_text(engine.get('version'))}".strip()
    return ", ".join(part for part in (name, system, docker) if part)


def _rules(record: RunRecord) -> str:
    tool = record.environment.get("pytest-vllm", "")
    by = f"pytest-vllm {tool}".strip()
    return f"{by}, profile {record.rules.profile}" if record.rules is not None else by


def _text(value: object) -> str:
    return "" if value is None else one_line(str(value), 200)
