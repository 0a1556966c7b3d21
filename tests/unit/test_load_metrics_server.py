"""What the server and the GPUs tell, cut to the window, and held against the client's times."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from pytest_vllm.adapters.exposition import read_metrics
from pytest_vllm.adapters.gpus.none import NoMonitor
from pytest_vllm.adapters.gpus.sampler import Sampler
from pytest_vllm.domain.load.gpu_window import cut_gpus
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.server_looks import Histogram, ServerLook, ServerLooks, read_look
from pytest_vllm.domain.load.server_window import bounds_ms, cut_server
from pytest_vllm.domain.load.steady import Window
from tests.unit.load_columns import Row, at, load

NEW = """\
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 3.0
vllm:time_to_first_token_seconds_count{engine="0"} 3.0
vllm:time_to_first_token_seconds_sum{engine="0"} 0.6
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf"} 1.0
vllm:time_to_first_token_seconds_count{engine="1"} 1.0
vllm:time_to_first_token_seconds_sum{engine="1"} 0.05
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:num_preemptions_total{engine="0"} 4.0
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_hits_total{engine="0"} 40.0
vllm:request_success_total{engine="0",finished_reason="stop"} 1.0
vllm:request_success_total{engine="0",finished_reason="length"} 2.0
"""
OLD = """\
vllm:time_per_output_token_seconds_count 7.0
vllm:time_per_output_token_seconds_sum 0.7
vllm:gpu_cache_usage_perc 0.5
vllm:gpu_prefix_cache_queries_total 10.0
vllm:gpu_prefix_cache_hits_total 1.0
"""
WINDOW = Window(begin_ns=at(1000), end_ns=at(3000))


def look(ms: float, text: str = "", **told: Any) -> ServerLook:
    read = read_look(read_metrics(text), at_ns=at(ms), took_ns=2_000_000)
    return replace(read, **told)


def test_engines_are_added_and_the_fullest_cache_is_told() -> None:
    seen = look(0, NEW)
    assert seen.histograms["ttft"].count == 4
    assert seen.histograms["ttft"].total == pytest.approx(0.65)
    assert seen.histograms["ttft"].buckets == {0.1: 3.0, inf: 4.0}
    assert seen.gauges == {"running": 5.0, "kv_cache": 0.75}
    assert seen.counters["finished"] == 3
    assert seen.counters["preemptions"] == 4


def test_names_of_older_vllm() -> None:
    seen = look(0, OLD)
    assert seen.histograms["itl"].count == 7
    assert seen.gauges == {"kv_cache": 0.5}
    assert seen.counters == {"prefix_hits": 1.0, "prefix_queries": 10.0}


def hist(count: float, total: float, **upto: float) -> Histogram:
    edges = {float(name[1:]) / 1000: value for name, value in upto.items()}
    return Histogram(count=count, total=total, buckets={**edges, inf: count})


def test_only_what_came_within_the_window() -> None:
    """Looks at 0, 1, 2, 3 and 4 s; the window is from the second to the fourth."""
    looks = [
        look(
            1000 * n,
            histograms={"ttft": hist(100 * n, 20.0 * n, t100=10 * n, t200=60 * n, t400=100 * n)},
            gauges={"running": float(n), "kv_cache": n / 10},
            counters={"prefix_queries": 10.0 * n, "prefix_hits": 4.0 * n},
        )
        for n in range(5)
    ]
    told: Any = cut_server(ServerLooks(looks=looks, failed=2), WINDOW)
    assert (told["span"], told["begin_s"], told["end_s"], told["looks"]) == ("window", 0.0, 2.0, 3)
    assert told["failed_looks"] == 2
    assert told["histograms"]["ttft"] == {
        "count": 200.0,
        "mean_ms": pytest.approx(200.0),
        "p50": [100.0, 200.0],
        "p90": [200.0, 400.0],
        "p95": [200.0, 400.0],
    }
    assert told["gauges"]["running"] == {"mean": 2.0, "least": 1.0, "most": 3.0}
    assert told["counters"]["prefix_queries"] == 20.0
    assert told["prefix_hit_share"] == pytest.approx(0.4)


def test_between_two_looks_it_is_the_whole_load() -> None:
    looks = [look(0, counters={"finished": 0.0}), look(9000, counters={"finished": 5.0})]
    told: Any = cut_server(ServerLooks(looks=looks), Window(begin_ns=at(10), end_ns=at(500)))
    assert (told["span"], told["counters"]["finished"]) == ("load", 5.0)


@pytest.mark.parametrize(
    ("permille", "bounds"), [(500, (0.0, 100.0)), (900, (100.0, 200.0)), (990, (200.0, None))]
)
def test_percentiles_lie_between_edges(
    permille: int, bounds: tuple[float | None, float | None]
) -> None:
    """60 of 100 up to 100 ms, 30 more up to 200 ms, 10 above all edges."""
    old = hist(5, 1.0, t100=5, t200=5)
    assert bounds_ms(old, hist(105, 20.0, t100=65, t200=95), permille) == bounds


def test_steps_of_few_requests_support_no_percentile() -> None:
    steps, requests = hist(10_000, 100.0, t100=10_000), hist(10, 1.0, t100=10)
    nothing = {"itl": hist(0, 0, t100=0), "ttft": hist(0, 0, t100=0)}
    looks = [
        look(1000, histograms=nothing),
        look(3000, histograms={"itl": steps, "ttft": requests}),
    ]
    told: Any = cut_server(ServerLooks(looks=looks), WINDOW)
    assert told["histograms"]["itl"] == {"count": 10_000, "mean_ms": 10.0}
    looks = [replace(one, histograms={"itl": one.histograms["itl"]}) for one in looks]
    told = cut_server(ServerLooks(looks=looks), WINDOW)
    assert told["histograms"]["itl"] == {"count": 10_000, "mean_ms": 10.0}


def test_a_server_that_started_again_is_noted() -> None:
    looks = [
        look(1000, counters={"finished": 9.0}, histograms={"ttft": hist(9, 1.0)}),
        look(3000, counters={"finished": 2.0}, histograms={"ttft": hist(2, 1.0)}),
    ]
    told: Any = cut_server(ServerLooks(looks=looks), WINDOW)
    assert told["counters"] == told["histograms"] == {}
    assert len([note for note in told["notes"] if "started again" in note]) == 2


def test_a_server_that_tells_nothing() -> None:
    looks = ServerLooks(failed=3, notes=("GET /metrics was answered with status 404",))
    told: Any = cut_server(looks, WINDOW)
    assert told["failed_looks"] == 3
    assert told["notes"][0].endswith("404")


ROW = Row(send=10, events=(60, 80, 110), end=111)


def around(count: int, ttft_s: float, e2el_s: float, finished: int) -> ServerLooks:
    before = {"ttft": hist(7, 1.0), "e2el": hist(7, 1.0)}
    after = {"ttft": hist(7 + count, 1.0 + ttft_s), "e2el": hist(7 + count, 1.0 + e2el_s)}
    return ServerLooks(
        looks=[
            look(0, histograms=before, counters={"finished": 7.0}),
            look(500, histograms=after, counters={"finished": 7.0 + finished}),
        ]
    )


def test_what_the_client_waited_beyond_the_server() -> None:
    measured = measure(*load(ROW), server=around(1, 0.045, 0.1, 1))
    means: Any = measured.server["means"]
    assert means["ttft"] == pytest.approx({"client_ms": 50, "server_ms": 45, "beyond_ms": 5})
    assert means["e2el"] == pytest.approx({"client_ms": 101, "server_ms": 100, "beyond_ms": 1})
    (flag,) = measured.flags
    assert "shorter than 3 times" in flag  # and nothing about the server


def test_a_server_that_says_more_than_the_client_waited() -> None:
    measured = measure(*load(ROW), server=around(1, 0.08, 0.1, 1))
    assert any("mean ttft (80.0 ms by its histogram) is longer" in flag for flag in measured.flags)


def test_others_who_use_the_server_are_told() -> None:
    """Then the means are of other requests, and are not compared."""
    measured = measure(*load(ROW), server=around(4, 0.5, 1.0, 4))
    assert measured.server["other_requests"] == 3
    assert "means" not in measured.server
    assert any("3 requests more than this load sent" in flag for flag in measured.flags)


def test_means_are_of_the_same_requests_or_not_compared() -> None:
    """A request of which the server's histogram took no note."""
    measured = measure(*load(ROW, replace(ROW, send=20)), server=around(1, 0.045, 0.1, 1))
    assert "means" not in measured.server


OWN = {"queue_time_ms": 5.0, "time_to_first_token_ms": 40.0, "generation_time_ms": 49.0}


def test_the_servers_own_times_of_each_request() -> None:
    rows = [replace(ROW, server_ms=OWN), replace(ROW, server_ms=OWN), replace(ROW, server_ms={})]
    told: Any = measure(*load(*rows)).server["by_request"]
    assert (told["ttft"]["requests"], told["ttft"]["mean"]) == (2, pytest.approx(5.0))
    assert told["generation"]["mean"] == pytest.approx(1.0)


def test_first_tokens_that_came_before_they_were_made() -> None:
    own = {**OWN, "time_to_first_token_ms": 60.0}
    flags = measure(*load(replace(ROW, server_ms=own))).flags
    assert any("15.0 ms after the client had them" in flag for flag in flags)


def samples(*gpus: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Samples at 0, 1, 2, 3 and 4 s."""
    return {
        "monitor": "amd",
        "began_ns": at(0),
        "time_s": [0.0, 1.0, 2.0, 3.0, 4.0],
        "gpus": list(gpus),
        **more,
    }


def gpu(bdf: str, power: list[float | None], activity: float = 90.0) -> dict[str, Any]:
    return {"bdf": bdf, "power_w": power, "activity_percent": [activity] * 5}


BUSY = [50.0, 400.0, 500.0, 600.0, 50.0]


def test_samples_within_the_window() -> None:
    told: Any = cut_gpus(samples(gpu("0000:05:00.0", BUSY)), WINDOW)
    assert told["samples"] == 3
    assert told["gpus"]["0000:05:00.0"]["power_w"] == {"mean": 500.0, "most": 600.0}
    assert told["power_w"] == 500.0


def test_partitions_of_one_package_draw_its_power_once() -> None:
    parts = [gpu("0000:05:00.0", BUSY), gpu("0000:05:00.1", BUSY), gpu("0000:06:00.0", BUSY)]
    assert cut_gpus(samples(*parts), WINDOW)["power_w"] == 1000.0


def test_idle_gpus_are_named_and_left_out() -> None:
    told: Any = cut_gpus(
        samples(gpu("0000:05:00.0", BUSY), gpu("0000:06:00.0", BUSY, activity=0.0)), WINDOW
    )
    assert told["power_w"] == 500.0
    assert "0000:06:00.0" in told["notes"][0]


def test_power_that_one_gpu_does_not_tell_is_not_told_of_all() -> None:
    silent: list[float | None] = [None] * 5
    told = cut_gpus(samples(gpu("0000:05:00.0", BUSY), gpu("0000:06:00.0", silent)), WINDOW)
    assert "power_w" not in told


def test_too_few_samples_and_samples_without_a_clock() -> None:
    few: Any = cut_gpus(
        samples(gpu("0000:05:00.0", BUSY)), Window(begin_ns=at(900), end_ns=at(1100))
    )
    assert "--vllm-sample-interval" in few["notes"][0]
    unknown: Any = cut_gpus(samples(gpu("0000:05:00.0", BUSY), began_ns=0), WINDOW)
    assert "gpus" not in unknown
    assert unknown["notes"]


def test_the_sampler_tells_the_time_of_the_loads_clock() -> None:
    before_ns, sampled = time.monotonic_ns(), threading.Event()
    sampler = Sampler(
        NoMonitor("none"),
        [{"index": 0, "bdf": "0000:05:00.0"}],
        interval_s=60,
        on_sample=lambda _: sampled.set(),
    )
    sampler.start()
    assert sampled.wait(30)
    told = sampler.stop()
    after_ns = time.monotonic_ns()
    assert before_ns <= told["began_ns"] <= after_ns
    window = Window(begin_ns=before_ns, end_ns=after_ns + 1_000_000)  # samples are told to the ms
    assert cut_gpus(told, window)["samples"] == 2


def test_energy_of_a_token() -> None:
    """500 W over 4 s in which 100 tokens came are 20 J for each."""
    events = [10 + 39.9 * n for n in range(1, 101)]
    rows = [Row(send=0, events=events, end=4000)]
    gpus = samples(gpu("0000:05:00.0", [500.0] * 5))
    assert measure(*load(*rows), gpus=gpus).figures["joules_per_output_token"] == pytest.approx(
        20.0
    )
