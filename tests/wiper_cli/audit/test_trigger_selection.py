import pytest
import torch

import triggers
from triggers.families.badnet import BadNet
from triggers.store import dump
from wiper_cli.audit import pipeline as audit
from wiper_cli.audit.subject import Notes
from wiper_cli.audit.trigger_selection import stampers, victim
from wiper_cli.verdict import Problem


@pytest.fixture
def asked(job):
    """A request of ``wiper verify``."""

    def make(**changes):
        plain = {"triggers": "none", "trigger_files": [], "known": None, "poisoned": None, "fit": False}
        return job(**plain, target=None, max_asr=0.2) | changes

    return make


def test_all_families_but_those_that_must_be_fitted(asked, digits_subject, heard):
    notes = Notes()
    found = stampers(asked(triggers="all"), digits_subject, notes, heard)
    unfitted = [name for name in triggers.names() if triggers.find(name).needs != "nothing"]
    assert [one.family for one in found] == [n for n in triggers.names() if n not in (*unfitted, "known")]
    assert unfitted
    assert {one.origin for one in found} == {"built-in"}
    (omitted,) = notes.not_done
    assert all(name in omitted["what"] for name in unfitted)
    assert "--fit" in omitted["why"]


def test_a_stored_trigger_brings_its_target(asked, digits_subject, heard, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(dump(BadNet(size=2), {"target": "3"}))
    (one,) = stampers(asked(trigger_files=[str(path)]), digits_subject, Notes(), heard)
    assert (one.family, one.origin, one.target, one.parameters["size"]) == ("badnet", "known", 3, 2)
    (named,) = stampers(asked(trigger_files=[str(path)], target=5), digits_subject, Notes(), heard)
    assert named.target == 5


def test_refusals(asked, digits_subject, heard, tmp_path):
    def refused(sentence, **changes):
        with pytest.raises(Problem, match=sentence):
            stampers(asked(**changes), digits_subject, Notes(), heard)

    refused("no trigger family 'badnett'; the nearest is 'badnet'", triggers="badnett")
    refused("no trigger family 'known'", triggers="known")
    refused("ia is fitted to a model: add --fit", triggers="ia")
    refused("No trigger to measure")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    refused("cannot be read", trigger_files=[str(tmp_path / "no.safetensors")])


def test_what_an_attack_sees_is_the_file_in_hand(digits_subject):
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with victim(digits_subject.classifier) as model:
        features, logits = model.features(x)
        assert torch.allclose(logits, digits_subject.classifier.logits(x), atol=1e-5)
        assert model.head().shape == (10, features.shape[1])
        assert torch.allclose(model.network(x), logits, atol=1e-5)


def test_a_fitted_trigger_makes_no_finding_and_is_measured_on_other_images(asked, heard, monkeypatch):
    from triggers.families.trojan import TrojanNN

    seen = []
    plain = TrojanNN.fit

    def short(self, model, images, labels, target, generator, progress):
        seen.append((len(images), target))
        quick = TrojanNN(steps=5, starts=1)
        return plain(quick, model, images, labels, target, generator, progress)

    monkeypatch.setattr(TrojanNN, "fit", short)
    monkeypatch.setattr(
        "wiper_cli.audit.pipeline._working", lambda measured, bar, subject: kept.append(measured) or []
    )
    kept = []
    request = asked(triggers="trojannn", fit=True, target=1)
    result, _ = audit.measure(request, b"", heard)
    (row,) = result["verification"]["before"]["triggers"]
    assert (row["family"], row["origin"], row["target"]) == ("trojannn", "fitted", 1)
    fit, report = seen[0][0], result["verification"]["before"]["images"]
    assert fit + report < 120
    monkeypatch.undo()
    measured = {"triggers": [{**row, "corrected_asr": 1.0, "asr": {**row["asr"], "value": 1.0}}]}
    assert audit._working(measured, 0.2, None) == []


def test_the_sentence_says_that_a_trigger_was_fitted():
    def row(origin, asr):
        return {"family": "ia", "origin": origin, "asr": {"value": asr}}

    for origin, words in (
        ("fitted", "with a fitted ia"),
        ("known", "with the known trigger"),
        ("built-in", "with ia"),
    ):
        measured = {"acc": {"value": 0.5}, "triggers": [row("built-in", 0.1), row(origin, 0.25)]}
        assert audit._measured(measured, None) == f"Accuracy 50.0 %; attack success 25.0 % {words}."
