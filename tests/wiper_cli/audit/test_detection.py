"""What purify asks beside the scan: a sample of stamps, and probes that are asked again where they are close."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from wiper_cli.audit import detection
from wiper_cli.audit.detection import look, look_closely, sample_of
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.perturbations import Recovered


@dataclass
class Wavering:
    """A detector whose statistic depends on the seed."""

    values: tuple
    title: str = "wavering"
    seeds: list = field(default_factory=list)

    def run(self, classifier, clean, progress, seed):
        value = self.values[len(self.seeds)]
        self.seeds.append(seed)
        if value is None:
            return Evidence("own", False, "it cannot")
        return Evidence("own", True, statistic=value, threshold=4.0, fired=value > 4, seconds=1.0)


@pytest.mark.parametrize(
    ("values", "stands", "fired"),
    [
        ((4.2, 3.9, 3.5), 3.9, False),
        ((3.5, 4.4, 4.3), 4.3, True),
        ((4.2, 9.0, 4.1), 4.2, True),
        ((4.2, None, None), 4.2, True),
    ],
)
def test_a_probe_close_to_its_threshold_is_asked_again_from_other_starts(values, stands, fired):
    probe = Wavering(values)
    (found,) = look_closely({"wavering": probe}, None, None, 7)
    assert (found.name, found.statistic, found.fired) == ("wavering", stands, fired)
    assert probe.seeds == [7, 8, 9]
    assert found.facts["statistics"] == sorted(value for value in values if value is not None)


@pytest.mark.parametrize("value", [2.9, 5.1, None])
def test_what_is_clear_is_asked_once(value):
    probe = Wavering((value,))
    (found,) = look_closely({"wavering": probe}, None, None, 7)
    assert (found.statistic, probe.seeds, dict(found.facts)) == (value, [7], {})


def test_a_part_of_the_sample_is_held_back(monkeypatch):
    asked = []

    def run(self, classifier, clean, progress, seed):
        asked.append((self.targets, self.compared, seed, self.drawn))
        return Evidence(self.name, True, recovered=[Recovered("patch", 3, {}, {"n": n}) for n in range(10)])

    monkeypatch.setattr(ShapeProbe, "run", run)
    shown, held_back = sample_of(None, None, [3], 5)
    sample_of(None, None, [3], 5, usual=ShapeProbe(drawn=7))
    assert asked == [((3,), 0, 5, ShapeProbe().drawn), ((3,), 0, 5, 7)]
    assert [one.facts["n"] for one in held_back] == [3, 7]
    assert sorted(one.facts["n"] for one in (*shown, *held_back)) == list(range(10))
    assert sample_of(None, None, [], 5) == ([], [])
    assert len(asked) == 2
    assert detection.HELD_BACK > 1


class Hungry:
    """A detector that holds a batch at once, on a machine with room for ``room`` images."""

    title = "hungry"

    def __init__(self, room, error):
        self.room, self.error = room, error

    def run(self, classifier, clean, progress, seed):
        if classifier.batch > self.room:
            raise self.error
        return Evidence("own", True, statistic=1.0, threshold=4.0)


SHORT = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
)


@pytest.mark.parametrize("error", [MemoryError(), SHORT])
def test_with_too_little_memory_half_as_many_images_are_held(error):
    classifier = SimpleNamespace(batch=256)
    (found,) = look({"hungry": Hungry(40, error)}, classifier, None, 0)
    assert (found.statistic, classifier.batch) == (1.0, 32)
    with pytest.raises(type(error)):
        look({"hungry": Hungry(1, error)}, classifier, None, 0)
    with pytest.raises(RuntimeError, match="shapes"):
        look({"hungry": Hungry(1, RuntimeError("shapes differ"))}, SimpleNamespace(batch=256), None, 0)
