"""Who is next, in closed and open loops."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.load.schedule import NO_ONE, NO_TIME, Schedule


def plan(length: int = 0, **fields: Any) -> Schedule:
    due = fields.get("due_ns", [NO_TIME] * length)
    after = fields.get("after", [NO_ONE] * len(due))
    return Schedule(
        due_ns=due,
        after=after,
        pause_ns=fields.get("pause_ns", [0] * len(due)),
        places=fields.get("places", 0),
        ramp_ns=fields.get("ramp_ns", 0),
        begin_ns=fields.get("begin_ns", 100),
    )


def ready(schedule: Schedule, now: int) -> list[int]:
    found = []
    while (number := schedule.ready(now)) is not None:
        found.append(number)
    return found


def test_a_closed_loop_sends_when_a_place_is_free() -> None:
    """A request is due when the one before it on its place ended, not when that was noticed."""
    schedule = plan(4, places=2)
    assert ready(schedule, 100) == [0, 1]
    assert ready(schedule, 200) == []
    schedule.ended(1, 150)
    assert ready(schedule, 201) == [2]
    schedule.ended(0, 210)
    assert ready(schedule, 220) == [3]
    assert schedule.due_ns == [100, 100, 150, 210]
    assert schedule.next_ns() is None


def test_a_ramp_opens_places_evenly() -> None:
    schedule = plan(4, places=4, ramp_ns=400)
    assert ready(schedule, 100) == [0]
    assert schedule.next_ns() == 200
    assert ready(schedule, 350) == [1, 2]
    schedule.ended(0, 360)
    assert ready(schedule, 360) == [3]
    assert schedule.due_ns == [100, 200, 300, 360]


def test_an_open_loop_sends_when_it_is_due_whatever_is_in_flight() -> None:
    schedule = plan(due_ns=[50, 0, 10])
    assert ready(schedule, 100) == [1]
    assert schedule.next_ns() == 110
    assert ready(schedule, 149) == [2]
    assert ready(schedule, 500) == [0]
    assert schedule.due_ns == [150, 100, 110]
    assert not any(schedule.held)


def test_a_bound_holds_back_and_says_so() -> None:
    schedule = plan(due_ns=[0, 10, 20, 500], places=1)
    assert ready(schedule, 100) == [0]
    assert ready(schedule, 130) == []
    schedule.ended(0, 140)
    assert ready(schedule, 140) == [1]
    schedule.ended(1, 150)
    assert ready(schedule, 150) == [2]
    schedule.ended(2, 160)
    assert ready(schedule, 700) == [3]
    assert schedule.due_ns == [100, 110, 120, 600]
    assert list(schedule.held) == [0, 1, 1, 0]


def test_a_session_keeps_its_place_through_its_pauses() -> None:
    """One place: the second conversation begins when the first one is over."""
    schedule = plan(5, places=1, after=[NO_ONE, 0, 1, NO_ONE, 3], pause_ns=[0, 30, 0, 0, 0])
    assert ready(schedule, 100) == [0]
    schedule.ended(0, 110)
    assert ready(schedule, 139) == []
    assert schedule.next_ns() == 140
    assert ready(schedule, 145) == [1]
    schedule.ended(1, 150)
    assert ready(schedule, 150) == [2]
    schedule.ended(2, 160)
    assert ready(schedule, 160) == [3]
    assert schedule.due_ns[:4] == [100, 140, 150, 160]


def test_a_pause_holds_no_place_in_an_open_loop() -> None:
    schedule = plan(
        due_ns=[0, NO_TIME, 5], after=[NO_ONE, 0, NO_ONE], pause_ns=[0, 50, 0], places=1
    )
    assert ready(schedule, 105) == [0]
    schedule.ended(0, 110)
    assert ready(schedule, 110) == [2]
    schedule.ended(2, 120)
    assert ready(schedule, 160) == [1]
    assert schedule.due_ns == [100, 160, 105]


def test_followers_of_one_request_share_its_place_with_none() -> None:
    """The first has the place, the other waits for one before new sessions do."""
    schedule = plan(4, places=1, after=[NO_ONE, 0, 0, NO_ONE])
    assert ready(schedule, 100) == [0]
    schedule.ended(0, 110)
    assert ready(schedule, 110) == [1]
    schedule.ended(1, 120)
    assert ready(schedule, 120) == [2]
    schedule.ended(2, 130)
    assert ready(schedule, 130) == [3]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(NO_TIME), st.integers(0, 50)),
            st.integers(-3, 8),
            st.integers(0, 5),
        ),
        max_size=20,
    ),
    st.integers(1, 4),
    st.integers(0, 20),
    st.randoms(use_true_random=False),
)
def test_all_are_sent_once_and_never_more_than_there_are_places(
    rows: list[tuple[int, int, int]], places: int, ramp: int, chance: Any
) -> None:
    """Whatever the plan, as long as each waits for an earlier one."""
    after = [one if NO_ONE < one < number else NO_ONE for number, (_, one, _) in enumerate(rows)]
    schedule = plan(
        due_ns=[due for due, _, _ in rows],
        after=after,
        pause_ns=[pause for _, _, pause in rows],
        places=places,
        ramp_ns=ramp,
    )
    flying: list[int] = []
    sent: list[int] = []
    ends: dict[int, int] = {}
    for now in range(100, 1000):
        new = ready(schedule, now)
        for number in new:
            assert schedule.due_ns[number] <= now
            if after[number] != NO_ONE:
                assert schedule.due_ns[number] >= ends[after[number]] + rows[number][2]
        flying += new
        sent += new
        assert len(flying) <= places
        if flying and chance.random() < 0.5:
            number = flying.pop(chance.randrange(len(flying)))
            ends[number] = now
            schedule.ended(number, now)
    assert sorted(sent) == list(range(len(rows)))
