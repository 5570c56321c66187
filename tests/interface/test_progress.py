"""Progress bars."""

from vaexprs.interface.progress import progress_bar


def test_the_time_left_of_a_resumed_task_is_estimated_from_its_own_units():
    """900 of 1,000 steps were done before; 50 more took 100 s, so that 50 take as long."""
    bar = progress_bar(1000, "fitting", "step", done=900)
    bar.update(50)
    bar.start_t -= 100
    assert bar.n == 950
    assert "95%" in str(bar)
    assert "01:40 left" in str(bar)
    bar.close()
