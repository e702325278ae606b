"""The life of a release: what the table promises for every state and event."""

from __future__ import annotations

import signal

import pytest

from fildes.orchestrator.plan import TABLE, Do, Event, Intensity, State, exit_sentence, step


def test_what_is_not_in_the_table_changes_nothing():
    for state in State:
        for event in Event:
            if (state, event) not in TABLE:
                assert step(state, event) == (state, ())


def test_a_retired_release_never_comes_back():
    for event in Event:
        assert step(State.RETIRED, event)[0] is State.RETIRED


@pytest.mark.parametrize("state", [state for state in State if state is not State.RETIRED])
def test_every_state_can_be_retired(state: State):
    assert step(state, Event.RETIRE)[0] is State.RETIRED


def test_a_halted_release_is_woken_by_an_operator_only():
    for event in Event:
        after = step(State.HALTED, event)[0]
        assert after is State.HALTED or event in (Event.STOP, Event.RETIRE)


def test_wherever_a_release_may_be_wanted_it_watches_its_conveyor():
    """A connection that waits must be seen: every way into ASLEEP or WARM watches."""
    for (state, _), (after, actions) in TABLE.items():
        if after in (State.ASLEEP, State.WARM) and after is not state:
            assert Do.WATCH in actions


def test_from_nothing_to_an_answer_and_back():
    state, did = State.ASLEEP, []
    for event in (Event.WANTED, Event.LOADED, Event.WANTED, Event.ENDED, Event.UNUSED):
        state, actions = step(state, event)
        did += actions
    assert state is State.ASLEEP
    assert did == [Do.LAUNCH, Do.WATCH, Do.START, Do.WATCH, Do.END, Do.WATCH]


def test_intensity_counts_within_its_period_only():
    intensity = Intensity(most=2, period=10)
    assert not intensity.crashed(0)
    assert not intensity.crashed(5)
    assert intensity.crashed(9)
    assert not intensity.crashed(19)
    intensity.forget()
    assert not intensity.crashed(20)


@pytest.mark.parametrize(
    ("status", "oom", "words"),
    [
        (3 << 8, 0, "status 3"),
        (signal.SIGSEGV, 0, "SIGSEGV"),
        (signal.SIGKILL, 1, "memory"),
        (signal.SIGSYS, 0, "profile"),
        (63, 0, "signal 63"),
    ],
)
def test_exit_sentences(status: int, oom: int, words: str):
    assert words in exit_sentence(status, oom)
