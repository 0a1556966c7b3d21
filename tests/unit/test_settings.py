"""Settings: precedence, sources and errors that name them."""

from __future__ import annotations

from itertools import combinations

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.settings import OPTIONS, Sources, resolve

PLACES = ("option", "env", "profile", "ini", "default")


def _resolve(name: str, **places: object) -> tuple[object, str]:
    env_name = f"PYTEST_VLLM_{name.upper().replace('-', '_')}"
    sources = Sources(
        options={name: places["option"]} if "option" in places else {},
        env={env_name: str(places["env"])} if "env" in places else {},
        ini={name: places["ini"]} if "ini" in places else {},
    )
    profile = {name: places["profile"]} if "profile" in places else {}
    setting = resolve(sources, profile=profile, profile_name="p")[name]
    return setting.value, setting.source


@pytest.mark.parametrize(
    "places",
    [combo for size in range(1, 5) for combo in combinations(PLACES[:4], size)],
    ids="-".join,
)
def test_the_first_place_in_order_wins(places: tuple[str, ...]) -> None:
    """Option beats environment beats profile beats ini, in every combination."""
    value, source = _resolve("model", **{place: f"from-{place}" for place in places})
    assert value == f"from-{places[0]}"
    assert source.split()[0] == places[0]


def test_a_default_is_marked_as_such() -> None:
    assert _resolve("timeout") == (3600.0, "default")


@pytest.mark.parametrize("places", [{"option": "0"}, {"env": "0"}, {"profile": 0}, {"ini": "0"}])
def test_an_interval_of_zero_means_never(places: dict[str, object]) -> None:
    assert _resolve("sample-interval", **places)[0] == 0.0
    assert _resolve("sample-interval", option="0.25")[0] == 0.25


def test_an_empty_environment_variable_is_unset() -> None:
    assert _resolve("model", env="", ini="x") == ("x", "ini vllm_model")


def test_a_list_from_the_environment_is_split_like_a_shell_does() -> None:
    value, _ = _resolve("serve-arg", env="--max-model-len=10 '--a b'")
    assert value == ("--max-model-len=10", "--a b")


@pytest.mark.parametrize(
    ("name", "places", "words"),
    [
        ("backend", {"env": "podman"}, ("env PYTEST_VLLM_BACKEND", "podman", "docker")),
        ("timeout", {"option": "soon"}, ("--vllm-timeout", "soon")),
        ("timeout", {"option": "nan"}, ("--vllm-timeout", "nan")),
        ("timeout", {"profile": -1}, ("profile p", "-1")),
        ("sample-interval", {"option": "-1"}, ("--vllm-sample-interval", "-1")),
        ("sample-interval", {"env": "often"}, ("env PYTEST_VLLM_SAMPLE_INTERVAL", "often")),
        ("model", {"profile": 7}, ("profile p", "7")),
        ("serve-arg", {"profile": [1]}, ("profile p", "[1]")),
        ("serve-arg", {"env": "'open"}, ("env PYTEST_VLLM_SERVE_ARG", "open")),
        ("keep", {"env": "maybe"}, ("env PYTEST_VLLM_KEEP", "maybe")),
    ],
)
def test_a_wrong_value_names_its_place(
    name: str, places: dict[str, object], words: tuple[str, ...]
) -> None:
    """The error says where the value was set, what it is and what would do."""
    with pytest.raises(TargetError) as caught:
        _resolve(name, **places)
    for word in words:
        assert word in str(caught.value)
    assert "fix:" in str(caught.value)


def test_option_names_are_unique_and_lower_case() -> None:
    names = [option.name for option in OPTIONS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)
