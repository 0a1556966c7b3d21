"""The command line of `ab`: what is shared, what each side has, and what makes no sense."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.ab_words import AbRequest, Servers, read_words
from pytest_vllm.domain.errors import TargetError

URLS = ("--url", "http://a", "--url", "http://b")


def read(*words: str) -> AbRequest:
    return read_words(words)


def test_two_images_and_one_model() -> None:
    request = read("--image", "x:1", "--image=x:2", "--model", "m", "--", "--dtype", "float16")
    assert request.sides == (
        {"image": ("x:1",), "model": ("m",)},
        {"image": ("x:2",), "model": ("m",)},
    )
    assert request.serve_args == ("--dtype", "float16")
    assert (request.pairs, request.aa, request.servers) == (0, 0, None)


def test_one_interpreter_and_what_only_one_side_has() -> None:
    request = read(
        "--python", "p", "--model", "m", "--b-env", "A=1", "--b-env=B=2", "--a-serve-arg=-tp 2"
    )
    assert request.sides[0] == {"python": ("p",), "model": ("m",), "serve-arg": ("-tp 2",)}
    assert request.sides[1] == {"python": ("p",), "model": ("m",), "env": ("A=1", "B=2")}


def test_options_of_pytest_are_handed_on() -> None:
    request = read(*URLS, "--vllm-artifacts", "out", "--vllm-keep", "--vllm-seed=3", "-c", "x.ini")
    assert request.shared == ("--vllm-artifacts", "out", "--vllm-keep", "--vllm-seed=3", "-c",
                              "x.ini")  # fmt: skip


def test_the_runs() -> None:
    request = read(
        *URLS, "--rate", "2.5", "--requests=40", "--warm-up=0", "--pairs=40", "--together",
        "--no-calibrate", "--seed=7", "--change=ttft_p50_ms=12%", "--change=tpot-p50=4%",
        "--change=output-tokens-per-s=2%", "--workload=chat",
    )  # fmt: skip
    assert request == AbRequest(
        sides=({"url": ("http://a",)}, {"url": ("http://b",)}),
        workload="chat",
        requests=40,
        rate_per_s=2.5,
        warm_up=0,
        seed=7,
        pairs=40,
        servers=Servers.TOGETHER,
        calibrate=False,
        changes={"ttft_p50_ms": 0.12, "tpot_p50_ms": 0.04, "output_tokens_per_s": 0.02},
    )


def test_one_side_with_itself() -> None:
    request = read("--url", "http://a", "--aa", "20")
    assert request.aa == 20
    assert request.sides[0] == request.sides[1] == {"url": ("http://a",)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "both sides are the same.*--aa"),
        (("--url", "http://a"), "both sides are the same.*--aa"),
        ((*URLS, "--url", "http://c"), "--url is given 3 times, and there are two sides"),
        ((*URLS, "--aa", "3"), "--aa compares one server with itself.*differ in url"),
        ((*URLS, "--b-url", "http://c"), "--b-url and --url both name the url of side B"),
        (("--a-image=x", "--a-image=y"), "--a-image is given 2 times"),
        ((*URLS, "--imag", "x"), "no option --imag; did you mean --image"),
        ((*URLS, "--vllm-artifact=x"), "no option --vllm-artifact; did you mean"),
        ((*URLS, "word"), "takes no word of its own, and 'word' is one"),
        ((*URLS, "--vllm-seed"), "--vllm-seed has no value"),
        ((*URLS, "--pairs", "5"), "--pairs: expected an even number from 6 up, got '5'"),
        ((*URLS, "--pairs", "7"), "expected an even number"),
        ((*URLS, "--rate", "0"), "--rate: expected a number above 0"),
        ((*URLS, "--rate", "inf"), "--rate: expected a number above 0"),
        ((*URLS, "--concurrency", "x"), "--concurrency: expected a whole number, got 'x'"),
        ((*URLS, "--concurrency", "0"), "expected a whole number above 0"),
        ((*URLS, "--change", "ttft_p50_ms=5"), "--change: expected FIGURE=PERCENT%"),
        ((*URLS, "--change=tpot-p50=5%", "--change=tpot_p50_ms=6%"), "tpot_p50_ms is given twice"),
        ((*URLS, "--change=tpot_p5=5%"), "no figure 'tpot_p5'.*did you mean.*known are .*ttft"),
        ((*URLS, "--restart", "--together"), "not allowed with"),
        ((*URLS, "--vllm-url=http://c"), "--vllm-url is for both sides, and --url names it"),
    ],
)
def test_what_makes_no_sense_is_named(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(TargetError, match=f"(?s){message}"):
        read(*words)
