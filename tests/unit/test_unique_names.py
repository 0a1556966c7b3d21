"""Names of which each occurs once, however many are wanted equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.unique_names import UniqueNames


def take_all(wanted: list[str]) -> list[str]:
    names = UniqueNames()
    return [names.take(name) for name in wanted]


def test_the_first_keeps_its_name_and_the_others_get_the_next_free_number() -> None:
    assert take_all(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]
    assert take_all(["a-2", "a", "a", "a-2", "a-3"]) == ["a-2", "a", "a-3", "a-2-2", "a-3-2"]


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=12))
def test_no_name_is_given_twice_and_each_is_what_a_search_from_2_finds(wanted: list[str]) -> None:
    searched: list[str] = []
    for name in wanted:
        free = (one for one in (name, *(f"{name}-{n}" for n in range(2, 99))))
        searched.append(next(one for one in free if one not in searched))
    assert take_all(wanted) == searched
    assert len(set(searched)) == len(searched)


class Watched(str):
    """A name that counts how often one with a number is made of it."""

    __slots__ = ("made",)
    made: int

    def __format__(self, spec: str) -> str:
        self.made += 1
        return super().__format__(spec)


def test_many_equal_names_cost_one_try_each() -> None:
    name = Watched("a")
    name.made = 0
    names = UniqueNames()
    assert [names.take(name) for _ in range(200)][-1] == "a-200"
    assert name.made == 199
