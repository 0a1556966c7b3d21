"""Plots: what is drawn is what the record says, nothing foreign gets in, and anything is borne."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.load.percentile import curve_places, distribute
from pytest_vllm.domain.load.server_looks import ServerLook, ServerLooks
from pytest_vllm.domain.load.timeline import time_mean, timeline
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.reports.plot_axis import axis_over, told
from pytest_vllm.reports.plot_frame import number_text
from pytest_vllm.reports.plots import (
    Band,
    Bar,
    Line,
    Plot,
    Point,
    Words,
    bar_plot,
    line_plot,
    stacked_plot,
    thin,
)
from pytest_vllm.reports.record_plots import (
    load_plots,
    memory_plots,
    startup_plots,
    timeline_plots,
)
from tests.unit.records import HOSTILE, make_record

RECORDS = Path(__file__).parents[1] / "data" / "records"
KINDS = (startup_plots, memory_plots, load_plots, timeline_plots)
WORDS = Words(text="What it shows.")
ELEMENTS = {"svg", "g", "path", "rect", "circle", "text", "title"}
ATTRIBUTES = {
    *("class", "viewBox", "role", "aria-label", "transform", "d", "x", "y", "width", "height"),
    *("cx", "cy", "r", "text-anchor"),
}
ABSENT = object()
EXAMPLES = 300 if os.environ.get("PYTEST_VLLM_TEST_ALL") else 12
DRAWN_FROM = {
    "performance": (load_plots, timeline_plots),
    "gpu_samples": (memory_plots, timeline_plots),
    "forecast": (memory_plots,),
    "gpus": (timeline_plots,),
}


def read(name: str) -> RunRecord:
    return from_json((RECORDS / name).read_text("utf-8"), where=name)


@pytest.fixture(scope="module")
def gpu_run() -> RunRecord:
    return read("h100.json")


def plots_of(record: RunRecord) -> list[Plot]:
    return [plot for kind in KINDS for plot in kind(record)]


def titled(plots: list[Plot], begin: str) -> Plot:
    return next(plot for plot in plots if plot.title.startswith(begin))


def parse(plot: Plot) -> ET.Element:
    return ET.fromstring(plot.svg)  # noqa: S314 - our own


def check(plot: Plot) -> None:
    """Hold a plot to what each must keep, whatever the record is."""
    root = parse(plot)
    assert {node.tag for node in root.iter()} <= ELEMENTS
    assert {name for node in root.iter() for name in node.attrib} <= ATTRIBUTES
    for node in root.iter():
        for name in ("d", "x", "y", "width", "height", "cx", "cy", "r", "transform"):
            numbers = re.sub(r"translate|[MLHVhvZ(), ]", " ", node.get(name, "")).split()
            assert all(math.isfinite(float(text)) for text in numbers)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert plot.title
    assert plot.text
    assert all(len(row) == len(plot.head) for row in plot.rows)
    assert all(isinstance(cell, str) for row in plot.rows for cell in row)


def texts(plot: Plot) -> list[str]:
    return [node.text or "" for node in parse(plot).iter("text")]


def hints(plot: Plot) -> list[str]:
    return [node.text or "" for node in parse(plot).iter("title")]


# --- constructors ---------------------------------------------------------------------------------


def test_a_point_lies_where_its_numbers_say() -> None:
    """Equal steps are equal in the drawing, and equal ratios on a logarithmic axis."""
    points = [Point(x=x, y=y) for x, y in ((1, 10), (4, 20), (16, 40))]
    plot = line_plot("T", [Line(name="a", points=points)], x="x", y="y", words=WORDS, log_x=True)
    assert plot is not None
    check(plot)
    spots = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in parse(plot).iter("circle")]
    assert spots[1][0] - spots[0][0] == pytest.approx(spots[2][0] - spots[1][0], abs=0.2)
    assert spots[1][1] - spots[2][1] == pytest.approx(2 * (spots[0][1] - spots[1][1]), abs=0.2)


def test_an_interval_spans_its_ends() -> None:
    """The interval of a point is drawn from its lower to its upper end."""
    plain = [Point(x=1, y=0), Point(x=2, y=100)]
    spread = Point(x=3, y=50, low=0, high=100)
    plot = line_plot("T", [Line(name="a", points=[*plain, spread])], x="x", y="y", words=WORDS)
    assert plot is not None
    heights = [float(c.get("cy", 0)) for c in parse(plot).iter("circle")]
    (path,) = [n.get("d", "") for n in parse(plot).iter("path") if n.get("class") == "ci"]
    ends = [float(part.split()[1]) for part in re.findall(r"[ML]([-\d. ]+)", path)]
    assert (max(ends), min(ends)) == pytest.approx((heights[0], heights[1]), abs=0.2)


def test_parts_stand_on_each_other_and_what_is_not_there_is_not_drawn() -> None:
    """Each part begins where the one before it ends; a part that a bar has not leaves no trace."""
    parts: dict[str, list[float | None]] = {"a": [10.0, 20.0], "b": [5.0, None], "c": [1.0, 1.0]}
    plot = stacked_plot("T", ["one", "two"], parts, x="GiB", words=WORDS, marks={"limit": 30.0})
    assert plot is not None
    check(plot)
    bars = {
        (title.text or "", node.get("y")): (float(node.get("x", 0)), float(node.get("width", 0)))
        for node in parse(plot).iter("rect")
        if (title := node.find("title")) is not None
    }
    assert sorted(text for text, _ in bars) == ["a: 10", "a: 20", "b: 5", "c: 1", "c: 1"]
    first, second = (
        next(v for (t, _), v in bars.items() if t == name) for name in ("a: 10", "b: 5")
    )
    assert second[0] == pytest.approx(first[0] + first[1], abs=0.2)
    assert first[1] == pytest.approx(2 * second[1], abs=0.2)
    assert "limit" in texts(plot)
    assert texts(plot).count("a") == 2 + 1, "in both bars, which have the room, and in the legend"
    assert texts(plot).count("c") == 1, "its bars are too short for a name"


def test_a_span_begins_at_its_start() -> None:
    """Bars with a start are spans, and what shifts them is not seen."""
    bars = [Bar(name="a", value=2, start=0), Bar(name="b", value=1, start=2)]
    plot = bar_plot("T", bars, x="s", words=WORDS)
    assert plot is not None
    by_row = sorted((float(n.get("y", 0)), n) for n in parse(plot).iter("rect"))
    (_, first), (_, second) = by_row
    end = float(first.get("x", 0)) + float(first.get("width", 0))
    assert float(second.get("x", 0)) == pytest.approx(end, abs=0.2)


def test_nothing_drawable_is_no_plot() -> None:
    """NaN, infinities, numbers beyond all measure and text are left out, and no plot is left."""
    bad = [(1, math.nan), (math.inf, 1), (1, 1e300), (1, None)]
    assert line_plot("T", [Line(name="a", points=bad)], x="x", y="y", words=WORDS) is None
    assert bar_plot("T", [Bar(name="a", value=math.nan)], x="x", words=WORDS) is None
    assert stacked_plot("T", ["a"], {"b": [None]}, x="x", words=WORDS) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.4, "-0.4"), (-0.04, "0"), (0.0, "0"), (-0.96, "-1"), (-12.0, "-12"), (math.nan, "0")],
)
def test_places_keep_their_sign(value: float, text: str) -> None:
    """Only a minus before nothing is left out."""
    assert number_text(value) == text


def test_hostile_names_are_text() -> None:
    """Names come out as text: no element, no attribute, no control character of theirs."""
    points = [(1, 1), (2, 2)]
    lines = [Line(name=HOSTILE, points=points), Line(name="<b>", points=points)]
    made = [
        line_plot(
            HOSTILE,
            lines,
            x=HOSTILE,
            y=HOSTILE,
            words=Words(text=HOSTILE),
            marks={HOSTILE: 1.5},
            bands=[Band(low=1, high=2, name=HOSTILE)],
        ),
        bar_plot(HOSTILE, [Bar(name=HOSTILE, value=1, label=HOSTILE)], x=HOSTILE, words=WORDS),
        stacked_plot(HOSTILE, [HOSTILE], {HOSTILE: [1.0]}, x=HOSTILE, words=WORDS),
    ]
    for plot in made:
        assert plot is not None
        check(plot)
        assert "<script" not in plot.svg
        assert all(char.isprintable() for char in plot.svg)


def test_series_differ_by_class_and_are_named() -> None:
    """Each series has a class of its own (colour and dash) and its name in the legend."""
    lines = [Line(name=f"n{n}", points=[(0, n), (1, n)]) for n in range(5)]
    plot = line_plot("T", lines, x="x", y="y", words=WORDS)
    assert plot is not None
    assert {f"n{n}" for n in range(5)} <= set(texts(plot))
    css = Path(sys.modules[Plot.__module__].__file__ or "").parent / "assets" / "plots.css"
    rules = css.read_text("utf-8")
    dashes = re.findall(r"\.s\d \.li \{ stroke-dasharray: ([^;]+);", rules)
    assert len(set(dashes)) == 7, "each series but the first has a dash that no other has"


def test_pygal_leaves_no_finder_behind() -> None:
    """The finder of plug-ins that pygal brings would make each failing import a warning."""
    assert bar_plot("T", [Bar(name="a", value=1)], x="x", words=WORDS) is not None
    assert "PluginImportFixer" not in {type(finder).__name__ for finder in sys.meta_path}


def test_pygal_is_imported_when_something_is_drawn() -> None:
    """Importing the reports does not cost a plain run of pytest the import of pygal."""
    code = "import sys, pytest_vllm.reports.record_plots; print('pygal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-5, 5)), max_size=300), st.integers(4, 50))
def test_thinned_points_keep_the_extremes(points: list[tuple[float, float]], most: int) -> None:
    """However few points are kept, highest and lowest are among them, and their order stays."""
    kept = thin(points, most)
    assert len(kept) <= max(most, 2)
    if points:
        heights = [y for _, y in points]
        assert {max(heights), min(heights)} <= {y for _, y in kept}
    places = iter(points)
    assert all(point in places for point in kept)


@given(
    st.lists(st.none() | st.floats(-5, 5), max_size=300),
    st.integers(4, 50),
)
def test_thinned_points_keep_the_gaps(heights: list[float | None], most: int) -> None:
    """No line joins two points between which there was a gap."""
    points = [(float(x), y) for x, y in enumerate(heights)]
    kept = thin(points, most)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert len([y for _, y in kept if y is not None]) <= most
    for (x, y), (further, after) in pairwise(kept):
        if y is not None and after is not None:
            assert None not in heights[int(x) : int(further)]


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_numbers_and_has_ticks(numbers: list[float], zero: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever the numbers, the axis holds them and has a few ticks with labels that differ."""
    axis = axis_over(numbers, zero=zero)
    assert axis.low <= min(numbers) <= max(numbers) <= axis.high
    assert 2 <= len(axis.ticks) <= 12
    labels = [label for _, label in axis.ticks]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.123456, "0.123"),
        (8951.6, "8,952"),
        (12_345.6, "12,346"),
        (2.5e6, "2.5 million"),
        (999.7, "1,000"),
        (999.4, "999"),
        (-999.7, "-1,000"),
        (999_999.6, "1 million"),
        (1.5e13, "15,000,000 million"),
    ],
)
def test_numbers_are_told_shortly(number: float, text: str) -> None:
    """Three or four digits, separators in large ones."""
    assert told(number) == text


# --- data -----------------------------------------------------------------------------------------


@given(st.integers(0, 5000))
def test_a_curve_goes_from_the_least_to_the_most(count: int) -> None:
    """Places ascend from the first to the last, each once, 101 at most."""
    places = curve_places(count)
    assert len(places) == min(count, 101)
    assert list(places) == sorted(set(places))
    if count:
        assert (places[0], places[-1]) == (0, count - 1)


def test_a_curve_is_of_values_that_were_seen() -> None:
    """Each is a value of the sample at four digits; none is made up, and none unless asked."""
    values = [n * n * 1_000_000 for n in range(1, 38)]
    told_ = distribute(list(reversed(values)), requests=37, curve=True)
    assert told_.curve == tuple(float(f"{n * n:.4g}") for n in range(1, 38))
    assert distribute(values, requests=37).curve == ()


def test_a_timeline_is_bounded_and_keeps_both_ends() -> None:
    """Of many looks evenly spread ones are kept; what a look lacks is a gap."""
    looks = tuple(
        ServerLook(at_ns=10**9 * n, gauges={"running": float(n)} | ({"kv_cache": 0.5} if n else {}))
        for n in range(1000)
    )
    columns = timeline(ServerLooks(looks=looks), begin_ns=10**9)
    (length,) = {len(column) for column in columns.values()}
    assert 55 < length <= 60
    assert (columns["time_s"][0], columns["time_s"][-1]) == (-1.0, 998.0)
    assert (columns["kv_cache"][0], columns["kv_cache"][1]) == (None, 0.5)
    assert "waiting" not in columns
    nothing = ServerLook(at_ns=1, gauges={"running": math.nan})
    assert timeline(ServerLooks(looks=(nothing,)), begin_ns=0)["running"] == [None]
    assert timeline(ServerLooks(), begin_ns=0) == {}


def test_the_highest_look_of_each_gauge_is_kept() -> None:
    """A peak of one look is in the record, wherever it fell."""
    peaks = {"running": 501, "waiting": 502, "kv_cache": 777}
    looks = tuple(
        ServerLook(at_ns=n, gauges={name: 0.5 + (n == at) for name, at in peaks.items()})
        for n in range(1000)
    )
    columns = timeline(ServerLooks(looks=looks), begin_ns=0)
    assert [max(v or 0 for v in columns[name]) for name in peaks] == [1.5, 1.5, 1.5]
    assert all(len(column) <= 60 for column in columns.values())


def test_the_mean_of_a_gauge_is_that_of_the_load() -> None:
    """Each look stands for the time that is the nearest to it; those around the load for none."""
    assert time_mean([(-1, 0), (1, 16), (3, 16), (5, 0), (5.2, 0)], 4) == 16
    assert time_mean([(-1, 9), (1, 10), (9, 20), (11, 9)], 10) == pytest.approx(15)
    assert time_mean([(1, 4), (2, 4), (2.1, 4), (2.2, 4), (8, 1)], 8.1) == pytest.approx(
        (5.1 * 4 + 3 * 1) / 8.1
    )
    assert time_mean([(-1, 0), (5, 0)], 4) is None
    assert time_mean([(0, 1)], 0) is None


# --- a record of a real GPU -----------------------------------------------------------------------


def test_a_run_on_a_gpu_has_all_plots(gpu_run: RunRecord) -> None:
    """Start, memory, loads and timelines of a real run are all drawn, and clean."""
    found = plots_of(gpu_run)
    for plot in found:
        check(plot)
    begins = (
        *("Start-up", "Memory waterfall", "Memory of each GPU", "Throughput", "Requests and good"),
        *("Time to first token (TTFT), dist", "Time per output token (TPOT), dist"),
        *("Time of a whole request (E2EL), dist", "Time to first token (TTFT) against"),
        *("Requests in the server", "KV cache in use", "GPU memory", "GPU power"),
    )
    for begin in begins:
        assert titled(found, begin).rows
    assert sum(len(plot.svg) for plot in found) < 100_000


def test_the_same_record_gives_the_same_bytes(gpu_run: RunRecord) -> None:
    """No date, no random ID: reports are functions of the record."""
    again = from_json((RECORDS / "h100.json").read_text("utf-8"), where="h100.json")
    assert plots_of(gpu_run) == plots_of(again)


def test_throughput_is_the_mean_of_the_rounds(gpu_run: RunRecord) -> None:
    """Points and rows carry the record's own figures."""
    plot = titled(load_plots(gpu_run), "Throughput")
    for level, row in zip(gpu_run.performance["levels"], plot.rows, strict=True):
        rates = [one["figures"]["output_tokens_per_s"] for one in level["rounds"]]
        mean = sum(rates) / len(rates)
        assert (row[0], row[1]) == (str(level["concurrency"]), told(mean))
        assert f"{level['name']}: {told(mean)}/s output tokens" in hints(plot)


def test_a_distribution_has_its_median_in_the_middle(gpu_run: RunRecord) -> None:
    """The kept curve crosses 50 % at the median that the record tells."""
    for level in gpu_run.performance["levels"]:
        for metric in ("ttft", "tpot", "e2el"):
            known = level["latencies"][metric]
            curve = known["curve"]
            median = known["percentiles"]["p50"]["value"]
            assert curve[len(curve) // 2 - 2] <= median * 1.001
            assert curve[len(curve) // 2 + 2] >= median * 0.999


def test_the_waterfall_tells_forecast_and_log(gpu_run: RunRecord) -> None:
    """Forecast and measurement of each part stand beside each other, with the GPU's own bounds."""
    plot = memory_plots(gpu_run)[0]
    parts = {part["name"]: part["bytes"] / 2**30 for part in gpu_run.forecast["parts"]}
    facts = gpu_run.server_facts
    assert facts is not None
    (row,) = [row for row in plot.rows if row[0] == "KV cache"]
    assert row[1:] == (f"{parts['KV cache']:.2f}", f"{facts.kv_cache_gib:.2f}")
    assert any(text.startswith("GPU has 79.2 GiB") for text in texts(plot))


def spans(plot: Plot) -> dict[str, tuple[float, float]]:
    """Return where each bar of a plot begins and ends in the drawing, by what it tells."""
    return {
        title.text or "": (x, x + float(node.get("width", 0)))
        for node in parse(plot).iter("rect")
        if (title := node.find("title")) is not None and (x := float(node.get("x", 0))) >= 0
    }


def with_in_use(record: RunRecord, forecast_gib: float, sampled_gib: float) -> RunRecord:
    """Return the record with memory that others hold, in the forecast and in the samples."""
    forecast, samples = copy.deepcopy(record.forecast), copy.deepcopy(record.gpu_samples)
    forecast["parts"][0]["bytes"] = int(forecast_gib * 2**30)
    forecast["devices"][0]["free_bytes"] -= int(forecast_gib * 2**30)
    samples["gpus"][0]["vram_used_bytes"][0] = int(sampled_gib * 2**30)
    return dataclasses.replace(record, forecast=forecast, gpu_samples=samples)


def test_both_sides_of_the_waterfall_begin_after_what_others_hold(gpu_run: RunRecord) -> None:
    """Measured is what the first sample saw, and the share of the server begins behind it too."""
    waterfall, stacked = memory_plots(with_in_use(gpu_run, 5.0, 6.0))
    at = spans(waterfall)
    scale = at["in use, forecast: 5.00 GiB"][1] - at["in use, forecast: 5.00 GiB"][0]
    zero = at["in use, forecast: 5.00 GiB"][0]
    gib = {name: (low - zero) / scale * 5 for name, (low, _) in at.items()}
    assert gib["in use, measured: 6.00 GiB"] == pytest.approx(0, abs=0.1)
    assert gib["weights, measured: 0.26 GiB"] == pytest.approx(6, abs=0.1)
    assert gib["KV cache, measured: 72.23 GiB"] == pytest.approx(7.01, abs=0.1)
    mark = next(n for n in parse(waterfall).iter("g") if (n.get("class")) == "mk")
    place = float(re.findall(r"M([\d.]+)", next(mark.iter("path")).get("d", ""))[0])
    assert (place - zero) / scale * 5 == pytest.approx(5 + 72.84, abs=0.5)
    assert "the first sample of GPU 0" in waterfall.text
    assert "server's log 79.2 GiB (6.0 of it in use before)" in stacked.text
    assert ("in use", "5.00", "6.00") in waterfall.rows


def test_measured_begins_where_the_forecast_has_it_if_nothing_else_is_known(
    gpu_run: RunRecord,
) -> None:
    """Without a sample from before the launch, and behind a part that the log does not tell."""
    assert gpu_run.server_facts is not None
    facts = dataclasses.replace(gpu_run.server_facts, non_torch_gib=None)
    run = dataclasses.replace(with_in_use(gpu_run, 5.0, 70.0), server_facts=facts)
    (waterfall, _) = memory_plots(dataclasses.replace(run, backend="attach"))
    at = spans(waterfall)
    assert not [name for name in at if name.startswith("in use, measured")]
    assert at["weights, measured: 0.26 GiB"][0] == at["weights, forecast: 0.25 GiB"][0]
    assert at["activation, measured: 0.14 GiB"][0] == at["activation, forecast: 0.39 GiB"][0], (
        "what the log does not tell shifts nothing"
    )
    assert "that of the forecast" in waterfall.text


def test_memory_of_a_cpu_is_that_of_the_host() -> None:
    """Without a GPU nothing is called one: the KV space stands beside the host's memory."""
    plots = memory_plots(read("memory-started.json"))
    said = " ".join(text for plot in plots for text in (plot.title, plot.text, *texts(plot)))
    assert "GPU" not in said
    assert "host has 23.5 GiB" in said
    assert ("KV cache", "1.00", "1.00") in plots[0].rows


def test_loads_lie_over_the_samples_of_the_gpu(gpu_run: RunRecord) -> None:
    """One clock: during the load c64 the GPU took more power than while nothing was loaded."""
    plot = titled(timeline_plots(gpu_run), "GPU power")
    assert {"c4", "c16", "c64"} <= set(texts(plot))
    samples = gpu_run.gpu_samples
    level = next(one for one in gpu_run.performance["levels"] if one["name"] == "c64")
    first, last = level["rounds"][0], level["rounds"][-1]
    begin = (first["begin_ns"] - samples["began_ns"]) / 1e9
    end = (last["begin_ns"] - samples["began_ns"]) / 1e9 + last["seconds"]
    power = samples["gpus"][0]["power_w"]
    loaded = [p for at, p in zip(samples["time_s"], power, strict=True) if begin <= at <= end]
    idle = [p for at, p in zip(samples["time_s"], power, strict=True) if at < 50]
    assert min(loaded) > max(idle)


def test_gauges_are_told_of_the_time_of_the_loads(gpu_run: RunRecord) -> None:
    """Idle looks around a load are no part of its mean, and the distance of looks is told."""
    requests = titled(timeline_plots(gpu_run), "Requests in the server")
    rows = {row[0]: row[1:] for row in requests.rows}
    assert rows["c4"] == ("6", "4", "4", "0", "0")
    assert rows["c16"][:3] == ("16", "14.6", "16")
    assert "By 33 looks" in requests.text
    assert "up to 8.1 s apart" in requests.text
    levels = copy.deepcopy(gpu_run.performance["levels"])
    for one in (one for level in levels for one in level["rounds"]):
        one["timeline"]["time_s"] = [at - 99 for at in one["timeline"]["time_s"]]
    around = dataclasses.replace(gpu_run, performance={**gpu_run.performance, "levels": levels})
    assert [p.title for p in timeline_plots(around) if "during the loads" in p.title] == []


def test_the_peak_of_the_memory_is_in_the_plot_of_it(gpu_run: RunRecord) -> None:
    """Of a long run some samples are kept, and the highest use besides: it decides everywhere."""
    samples = copy.deepcopy(gpu_run.gpu_samples)
    peak = {**samples["gpus"][0], "index": 1, "vram_peak_bytes": 79 * 2**30, "vram_peak_s": 147.5}
    samples["gpus"].append(peak)
    plot = titled(
        timeline_plots(dataclasses.replace(gpu_run, gpu_samples=samples)), "GPU memory in use"
    )
    assert plot.text.startswith("At most 79 GiB, on GPU 1.")
    assert [row[-1] for row in plot.rows] == ["74.7 GiB", "79 GiB"]
    lines = [n.get("d", "") for n in parse(plot).iter("path") if n.get("class") == "li"]
    tops = [min(float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", line)) for line in lines[:2]]
    assert tops[1] < tops[0], "the peak is drawn, not only told"


def test_one_level_is_no_curve(gpu_run: RunRecord) -> None:
    """With one level there is no line over the load, and the text says why."""
    performance = {**gpu_run.performance, "levels": gpu_run.performance["levels"][2:3]}
    plots = load_plots(dataclasses.replace(gpu_run, performance=performance))
    assert "no curve over the load" in plots[0].text
    assert [node.tag for node in parse(plots[0]).iter("circle")] == []
    assert not [plot for plot in plots if "against load" in plot.title]


@pytest.mark.parametrize("file", sorted(path.name for path in RECORDS.glob("*.json")))
def test_records_of_earlier_versions_have_fewer_plots(file: str) -> None:
    """What an old record does not have is not drawn, and nothing else fails."""
    record = read(file)
    for plot in plots_of(record):
        check(plot)
    curves = "curve" in json.dumps(record.performance)
    assert curves == any("distribution" in plot.title for plot in load_plots(record))


def test_a_record_without_data_has_no_plots() -> None:
    """No load, no GPU, no forecast, no phase: nothing."""
    assert plots_of(make_record(phases=())) == []


# --- size and chaos -------------------------------------------------------------------------------


def test_twenty_gpus_and_many_levels_stay_small(gpu_run: RunRecord) -> None:
    """20 GPUs with 1,200 samples each and 32 levels: each is told, and the bytes are bounded."""
    samples = copy.deepcopy(gpu_run.gpu_samples)
    one = samples["gpus"][0]
    count = 1200
    samples["time_s"] = [float(n) for n in range(count)]
    long = {
        name: [value[n % len(value)] for n in range(count)] if isinstance(value, list) else value
        for name, value in one.items()
    }
    samples["gpus"] = [{**long, "index": n, "bdf": f"0000:{n:02x}:00.0"} for n in range(20)]
    levels = [
        {**gpu_run.performance["levels"][n % 4], "name": f"c{n}", "concurrency": n}
        for n in range(1, 33)
    ]
    large = dataclasses.replace(
        gpu_run, gpu_samples=samples, performance={**gpu_run.performance, "levels": levels}
    )
    found = plots_of(large)
    for plot in found:
        check(plot)
        assert len(plot.svg) < 150_000, plot.title
    power = titled(found, "GPU power")
    assert len(power.rows) == 20
    assert {f"GPU {n}" for n in range(20)} <= set(hints(power))


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "NaN", HOSTILE, "1"]),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.sampled_from(["value", "gpus", "curve"]), st.integers(), max_size=2),
    st.just(ABSENT),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_a_record_holds_is_borne(gpu_run: RunRecord, data: st.DataObject) -> None:
    """Plain data with anything in any place: plots or none, no traceback, and no NaN in them."""
    field = data.draw(st.sampled_from(sorted(DRAWN_FROM)))
    plain = copy.deepcopy(getattr(gpu_run, field))
    for _ in range(data.draw(st.integers(1, 6))):
        spoil(plain, data)
    record = dataclasses.replace(gpu_run, **{field: plain})
    for kind in DRAWN_FROM[field]:
        for plot in kind(record):
            check(plot)


def spoil(plain: Any, data: st.DataObject) -> None:
    """Put anything into one place of nested data, or take it away."""
    place: Any = plain
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner) or data.draw(st.integers(0, 9)) == 0:
            break
        place = inner
    value = data.draw(ANYTHING)
    if value is not ABSENT:
        place[key] = value
    elif isinstance(place, dict):
        del place[key]
