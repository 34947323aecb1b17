import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from wiper_cli.jobs import ray as fleet
from wiper_cli.jobs.ray import Fleet, connect, share
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.launcher import ROOT

ONE_GPU, TWO_CPUS = (8, 1), (2, 0)


@pytest.mark.parametrize(
    ("machines", "jobs", "on_gpu", "shared"),
    [
        ([(8, 0), (16, 0)], None, False, Fleet(None, 1)),
        ([(8, 0), (16, 0)], 3, False, Fleet(3, 8)),
        ([(6, 0), (6, 0)], 3, False, Fleet(3, 3)),  # 4 each would let two work
        ([TWO_CPUS], 9, False, Fleet(9, 1)),
        ([], 3, False, Fleet(3, 1)),  # machines may join later
        ([ONE_GPU, (64, 0)], None, True, Fleet(None, 8, 1.0)),
        ([ONE_GPU, (32, 4)], None, True, Fleet(None, 8, 1.0)),
        ([ONE_GPU], 3, True, Fleet(3, 2, 0.3333)),
        ([ONE_GPU, ONE_GPU], 4, True, Fleet(4, 4, 0.5)),
    ],
)
def test_jobs_share_the_machines(machines, jobs, on_gpu, shared):
    assert share(machines, jobs, on_gpu) == shared


@pytest.fixture(scope="module")
def local(hostile_folder):
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hostile_folder)
        patch.setenv("PYTHONPATH", os.pathsep)
        with connect("local", jobs=2, device="cpu") as found:
            yield found


# Work is written inside the tests, since Ray's workers cannot import them: such functions travel whole.


def test_every_piece_comes_back_with_its_outcome(local):
    def tenfold(number):
        if number % 2:
            raise Problem(f"{number} is odd.", ExitCode.NO_VERDICT)
        return number * 10, os.getpid()

    found = dict(local.fan_out([1, 2, 4], tenfold))
    odd = found.pop(1)
    assert isinstance(odd, Problem)
    assert (str(odd), odd.exit_code) == ("1 is odd.", ExitCode.NO_VERDICT)
    assert {piece: value for piece, (value, _) in found.items()} == {2: 20, 4: 40}
    assert os.getpid() not in {process for _, process in found.values()}


def test_a_worker_imports_nothing_from_the_working_directory(local, hostile_folder):
    def origin(name):
        from importlib.util import find_spec

        return find_spec(name).origin, os.environ["PYTHONSAFEPATH"]

    found = dict(local.fan_out(["formats", "json", "torch", "wiper_cli"], origin))
    assert not [place for place, _ in found.values() if Path(place).is_relative_to(hostile_folder)]
    for name in ("formats", "wiper_cli"):
        assert found[name] == (str(ROOT / name / "__init__.py"), "1")
    assert not (hostile_folder / "imported").exists()


def test_a_worker_that_dies_loses_its_piece_alone(local):
    def die(number):
        if number == 2:
            os._exit(1)
        return number

    found = dict(local.fan_out([1, 2, 3, 4], die))
    lost = found.pop(2)
    assert isinstance(lost, Problem)
    assert "worker or machine died" in str(lost)
    assert (lost.exit_code, found) == (ExitCode.NO_VERDICT, {1: 1, 3: 3, 4: 4})


def test_a_machine_that_cannot_run_it_says_so(local):
    def lacking(number):
        raise ModuleNotFoundError("No module named 'nowhere'")

    ((_, outcome),) = local.fan_out([1], lacking)
    assert "could not run it (ModuleNotFoundError: No module named 'nowhere')" in str(outcome)


def test_what_is_left_is_cancelled_when_the_caller_stops(local, tmp_path):
    import time

    def slow(number):
        if number:
            time.sleep(1)
            (tmp_path / str(number)).touch()
        return number

    one_by_one = Fleet(None, local.cpus)
    outcomes = one_by_one.fan_out([0, 1, 2, 3, 4, 5, 6, 7, 8], slow)
    assert next(outcomes) == (0, 0)
    outcomes.close()
    assert dict(local.fan_out([0], slow)) == {0: 0}  # there is room again
    assert len(list(tmp_path.iterdir())) < 8


@pytest.mark.parametrize("connected", [True, False])
def test_without_a_cluster_nothing_is_cancelled(local, monkeypatch, connected):
    def sleep(seconds):
        import time

        time.sleep(seconds)
        return seconds

    outcomes = Fleet(None, local.cpus).fan_out([0, 3], sleep)
    next(outcomes)
    cancelled = []
    monkeypatch.setattr("ray.is_initialized", lambda: connected)
    monkeypatch.setattr("ray.cancel", lambda reference, force: cancelled.append(force))
    outcomes.close()
    assert cancelled == [True] * connected


def test_the_caller_keeps_its_own_way_to_end(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.init", lambda *_, **__: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr("ray.nodes", list)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with connect("local"):
        assert signal.getsignal(signal.SIGTERM) is before


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:port", "10"]
)
def test_an_address_where_nothing_answers_is_a_sentence(address):
    pytest.importorskip("ray")
    address = address.format(closed_port())
    with (
        pytest.raises(Problem, match=f"--ray {address}: no Ray cluster can be used there: .*\\.$") as raised,
        connect(address),
    ):
        pass
    assert raised.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(("mode", "told"), [(None, True), ("token", False)])
def test_a_cluster_that_refuses_may_want_a_token(monkeypatch, mode, told):
    pytest.importorskip("ray")

    def refuse(*_, **__):
        raise ConnectionError("Failed to connect.")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr(fleet, "_reach", lambda _: None)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(Problem, match="Failed to connect") as raised, connect("head:6379"):
        pass
    assert ("RAY_AUTH_MODE=token" in str(raised.value)) is told


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Problem, match=r"pip install 'ray\[client\]'") as raised, connect("local"):
        pass
    assert raised.value.exit_code == ExitCode.USAGE


def test_ray_chooses_the_gpu(monkeypatch):
    with pytest.raises(Problem, match="Ray chooses the GPU"), connect("local", device="cuda:1"):
        pass
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(Problem, match="no machine of the Ray cluster has a GPU"):
        fleet._shared_out(None, "cuda")
    assert fleet._shared_out(2, "auto") == Fleet(2, 2)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}])
    assert (fleet._shared_out(None, "auto"), fleet._shared_out(None, "cpu")) == (Fleet(None, 4, 1.0), Fleet())
