"""Evidence as plain data and back: the same verdict from it, and nothing from another search."""

import io
import math
from dataclasses import fields, replace

import pytest
import torch

from wiper_cli.audit import detection
from wiper_cli.audit.answers import Kept, KeptPiece, KeptTransform
from wiper_cli.audit.detection import pending
from wiper_cli.audit.keeping import keep, restore
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.perturbations import Recovered
from wiper_cli.worker.protocol import receive, send

DETECTORS = {"max-margin": MaxMargin(), "square-probe": SquareProbe()}
PARAMETERS = {
    "side": torch.tensor(3), "colour": torch.rand(3, 1, 1), "where": torch.rand(2, 4) > 0.5, "none": torch.empty(0, 2),
}  # fmt: skip
FOUND = (
    Evidence(
        "max-margin", True, "", 1 / 3, 4.0, "chosen", None, False, None, {}, (0.1, math.nan, 1e-300), (2, 0),
        facts={"tuple": (1, 2)}, seconds=0.5, title="largest margin",
    ),
    Evidence(
        "square-probe", True, statistic=0.93, threshold=0.75, fired=True, target=2, per_class=(0.0, 0.1, 0.93),
        recovered=[
            Recovered("patch", 2, {}, {"success": 0.93, "images": 40}),
            Recovered("patch", 2, PARAMETERS, {}, {7: 3, 2: 1}),
        ],
        mapping={2: 0, 0: 1},
        title=SquareProbe.title,
    ),
)  # fmt: skip


def there_and_back(kept):
    pipe = io.BytesIO()
    send(pipe, kept)
    pipe.seek(0)
    return receive(pipe, Kept)


def test_what_comes_back_is_judged_as_what_was_found():
    back = restore(there_and_back(keep(FOUND, DETECTORS)), DETECTORS)
    assert [*back] == [*DETECTORS]
    assert (
        pending(DETECTORS, 3, None, tuple(back.values())).judged == pending(DETECTORS, 3, None, FOUND).judged
    )
    margin, square = back.values()
    assert (margin.statistic, margin.per_class[0], margin.per_class[2]) == (1 / 3, 0.1, 1e-300)
    assert math.isnan(margin.per_class[1])
    again = square.recovered[1].parameters
    assert {name: (value.dtype, value.shape) for name, value in again.items()} == {
        name: (value.dtype, value.shape) for name, value in PARAMETERS.items()
    }
    assert all(torch.equal(again[name], value) for name, value in PARAMETERS.items())
    assert square.recovered[0].facts == {"success": 0.93, "images": 40}
    assert [*square.mapping.items()] == [(2, 0), (0, 1)]
    assert square.recovered[1].mapping == {7: 3, 2: 1}


def test_no_part_of_the_evidence_is_left_out():
    def names(kind):
        return {field.name for field in fields(kind)}

    assert names(KeptPiece) - {"settings"} == names(Evidence) - {"ran", "title"}
    assert names(KeptTransform) == names(Recovered) - {"parameters"}


@pytest.mark.parametrize(
    "unusable",
    [
        {"ran": False, "reason": "the scan had ended"},
        {"statistic": math.inf},
        {"per_class": (1.0, -math.inf)},
        {"recovered": [Recovered("patch", 2, {}, {"success": math.nan})]},
    ],
)
def test_what_would_not_come_back_as_it_was_is_not_kept(unusable):
    pieces = keep((replace(FOUND[0], **unusable), FOUND[1]), DETECTORS).pieces
    assert [piece.name for piece in pieces] == ["square-probe"]


def test_another_search_is_not_replaced_by_it():
    kept = keep(FOUND, DETECTORS)
    other = {**DETECTORS, "max-margin": replace(DETECTORS["max-margin"], threshold=5.0)}
    assert [*restore(kept, other)] == ["square-probe"]
    assert [*restore(kept, {"max-margin": DETECTORS["max-margin"]})] == ["max-margin"]


def test_what_is_done_is_not_searched_again(monkeypatch):
    def run(self, classifier, clean, progress, seed):
        return Evidence(self.name, True, statistic=0.0, threshold=1.0)

    monkeypatch.setattr(SquareProbe, "run", run)
    heard = []
    found = detection.look(DETECTORS, None, None, 0, heard=heard.append, done={"max-margin": FOUND[0]})
    assert (found[0].statistic, found[1].statistic) == (1 / 3, 0.0)
    assert [len(one) for one in heard] == [1, 2]
