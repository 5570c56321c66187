"""Progress bars and estimates of time."""

import pytest

from vaexprs.interface.progress import StepTimer, in_words, progress_bar, skip_start


def test_the_time_left_of_a_resumed_task_is_estimated_from_its_own_units():
    """900 of 1,000 steps were done before; 50 more took 100 s, so that 50 take as long."""
    bar = progress_bar(1000, "fitting", "step", done=900)
    bar.update(50)
    bar.start_t -= 100
    assert bar.n == 950
    assert "95%" in str(bar)
    assert "01:40 left" in str(bar)
    bar.close()


def test_the_time_of_the_start_is_not_used_for_the_time_left():
    """16 steps took 100 s with compilation; the next 50 took 100 s, so that 34 take 68 s."""
    bar = progress_bar(100, "fitting", "step")
    bar.start_t -= 100
    bar.last_print_t -= 100
    skip_start(bar, 16)
    bar.update(50)
    bar.start_t -= 100
    assert "66%" in str(bar)
    assert "01:08 left" in str(bar)
    bar.close()


def test_the_time_of_a_step_is_the_median_of_measured_steps():
    """Calls of 16 steps at 0.1 s and of 1 step at 0.2 s; one of the latter compiles for 30 s."""
    timer = StepTimer(16, 50.0)
    assert timer.add(17, 50.5) is None
    assert timer.add(33, 52.1) is None  # fewer than three calls
    assert timer.add(34, 82.3) == pytest.approx(0.1)
    timer = StepTimer(0, 0.0)
    assert [timer.add(n, n / 10) for n in range(1, 30)] == [None] * 29  # less than 3 s
    assert timer.add(30, 3.01) == pytest.approx(0.1)
    assert StepTimer(0, 0.0).add(1, 25.0) == 25  # one call is enough if it is long


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2, "10 seconds"), (62, "60 seconds"), (90, "2 minutes"), (840, "14 minutes"), (9000, "2.5 hours")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words
