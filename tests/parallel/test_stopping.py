import signal
import threading

import pytest

from nami_jax.parallel.stopping import SIGNALS, Stopped, Stopping


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_steps_after_the_one_under_way(number):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    done = []
    with Stopping() as stopping:
        for step in stopping.steps(3, 10):
            if step == 5:
                signal.raise_signal(number)
            done.append(step)
        assert stopping.after == 5
        signal.raise_signal(signal.SIGTERM)  # while the state is being saved
    assert done == [3, 4, 5]
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    with pytest.raises(Stopped, match=r"Stopped after step 5 of 9, which is saved\. The same command continues"):
        stopping.require_going(9)
    stopping.saved = False
    with pytest.raises(Stopped, match="step 5 of 9, which is not saved, for its loss was out of range"):
        stopping.require_going(9)


def test_without_a_signal_all_steps_are_made():
    with Stopping() as stopping:
        assert list(stopping.steps(1, 4)) == [1, 2, 3]
    stopping.require_going(3)


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_in_or_after_the_last_step_does_not_make_a_finished_run_a_stopped_one(late):
    with Stopping() as stopping:
        for step in stopping.steps(1, 4):
            if step == 3 and not late:
                signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    stopping.require_going(3)


def test_a_signal_breaks_off_what_may_be_broken_off_and_nothing_else():
    shown = []

    def show(step):
        signal.raise_signal(signal.SIGTERM)
        shown.append(step)

    with Stopping() as stopping:
        for step in stopping.steps(1, 10):
            stopping.interruptible(show, step)
            stopping.interruptible(shown.append, step)  # not begun any more
    assert stopping.after == 1
    assert not shown


def test_who_interrupts_twice_does_not_wait():
    with Stopping() as stopping:
        for _ in stopping.steps(1, 10):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_a_run_in_another_thread_leaves_signals_alone():
    handlers, found = [signal.getsignal(each) for each in SIGNALS], []

    def run():
        with Stopping() as stopping:
            for _ in stopping.steps(1, 3):
                found.append([signal.getsignal(each) for each in SIGNALS])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [handlers, handlers]
