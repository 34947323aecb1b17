import signal

import pytest

from wiper_cli.jobs.local import fan_out
from wiper_cli.verdict import Problem


def refuse_odd(number):
    if number % 2:
        raise Problem(f"{number} is odd.")
    return number * 10


def test_a_problem_is_the_outcome_of_its_piece_alone():
    found = dict(fan_out([1, 2, 4], refuse_odd))
    assert (str(found.pop(1)), found) == ("1 is odd.", {2: 20, 4: 40})


def test_what_is_no_problem_stops_everything():
    with pytest.raises(ZeroDivisionError):
        list(fan_out([1, 0], lambda n: 1 / n))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_process_that_dies_takes_no_more_than_was_at_work():
    jobs = 2
    # Signals that are ignored by default, and one that cannot be.
    harmless = [signal.SIGURG, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT]
    found = dict(fan_out([signal.SIGKILL, *harmless], signal.raise_signal, jobs=jobs))
    assert set(found) == {signal.SIGKILL, *harmless}
    lost = [piece for piece, outcome in found.items() if isinstance(outcome, Problem)]
    assert signal.SIGKILL in lost
    assert len(lost) <= jobs
    assert "died" in str(found[signal.SIGKILL])


def test_fresh_processes_import_nothing_from_the_working_directory(hostile):
    assert (dict(fan_out([-1, 2], abs, jobs=2)), hostile()) == ({-1: 1, 2: 2}, [])
