from functools import partial
from pathlib import Path

import pytest
import torch

import triggers
from triggers.families.badnet import BadNet
from triggers.store import dump
from wiper_cli.audit.measure import Measurement, TriggerRates
from wiper_cli.audit.requests import VerifyRequest
from wiper_cli.audit.stories import verify as story
from wiper_cli.audit.stories.verify import verify
from wiper_cli.audit.subject import Notes
from wiper_cli.audit.trigger_selection import stampers, victim
from wiper_cli.rates import Rate
from wiper_cli.verdict import Problem


@pytest.fixture
def asked(job):
    """A request of ``wiper verify``."""
    return partial(job, VerifyRequest, triggers=())


def test_all_families_but_those_that_must_be_fitted(asked, digits_subject, heard):
    notes = Notes()
    found = stampers(asked(triggers=None), digits_subject, notes, heard)
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
    (one,) = stampers(asked(trigger_files=(path,)), digits_subject, Notes(), heard)
    assert (one.family, one.origin, one.target, one.parameters["size"]) == ("badnet", "known", 3, 2)
    (named,) = stampers(asked(trigger_files=(path,), target=5), digits_subject, Notes(), heard)
    assert named.target == 5


def test_a_trigger_from_all_classes_to_all_is_measured_so(asked, digits_subject, heard, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(dump(BadNet(size=2), {"target": "0", "labelling": "all-to-all"}))
    (one,) = stampers(asked(trigger_files=(path,)), digits_subject, Notes(), heard)
    assert (one.target, one.origin) == (None, "known")
    assert one.mapping == {k: (k + 1) % 10 for k in range(10)}
    (named,) = stampers(asked(trigger_files=(path,), target=5), digits_subject, Notes(), heard)
    assert (named.target, named.mapping) == (5, {})


def test_refusals(asked, digits_subject, heard, tmp_path):
    def refused(sentence, **changes):
        with pytest.raises(Problem, match=sentence):
            stampers(asked(**changes), digits_subject, Notes(), heard)

    refused("no trigger family 'badnett'; the nearest is 'badnet'", triggers=("badnett",))
    refused("no trigger family 'known'", triggers=("known",))
    refused("ia is fitted to a model: add --fit", triggers=("ia",))
    refused("No trigger to measure")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    refused("cannot be read", trigger_files=(tmp_path / "no.safetensors",))


def test_what_an_attack_sees_is_the_file_in_hand(digits_subject):
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with victim(digits_subject.classifier) as model:
        features, logits = model.features(x)
        assert torch.allclose(logits, digits_subject.classifier.logits(x), atol=1e-5)
        assert model.head().shape == (10, features.shape[1])
        assert torch.allclose(model.network(x), logits, atol=1e-5)


def test_a_fitted_trigger_is_measured_on_other_images(asked, heard, monkeypatch):
    from triggers.families.trojan import TrojanNN

    fitted = []
    plain = TrojanNN.fit

    def short(self, model, images, labels, target, generator, progress):
        fitted.append((len(images), target))
        quick = TrojanNN(steps=5, starts=1)
        return plain(quick, model, images, labels, target, generator, progress)

    monkeypatch.setattr(TrojanNN, "fit", short)
    found = verify(asked(triggers=("trojannn",), fit=True, target=1, max_asr=0.0), heard).verification
    (row,) = found["before"]["triggers"]
    assert (row["family"], row["origin"], row["target"]) == ("trojannn", "fitted", 1)
    assert fitted[0][0] + found["before"]["images"] < 120


@pytest.mark.parametrize("origin", ["built-in", "known", "fitted"])
def test_a_fitted_trigger_works_on_honest_models_too(origin):
    found = story._working(measured(row(origin, 90)), 0.2, [])
    assert [finding.rule for finding in found] == ([] if origin == "fitted" else ["WIPER-B04"])


@pytest.mark.parametrize("change", [{"fit": True}, {"poisoned": Path("x")}])
def test_what_aims_at_a_class_needs_its_number(change, asked, heard):
    with pytest.raises(Problem, match="need a target"):
        verify(asked(**change), heard)


@pytest.mark.parametrize(
    ("origin", "words"),
    [("fitted", "with a fitted ia"), ("known", "with the known trigger"), ("built-in", "with ia")],
)
def test_the_sentence_names_the_most_successful_trigger(origin, words):
    found = story._measured(measured(row("built-in", 10), row(origin, 25)), None)
    assert found == f"Accuracy 50.0 %; attack success 25.0 % {words}."


def row(origin, hits):
    rate = Rate(hits, 100)
    return TriggerRates("ia", origin, {}, 1, "", rate, rate.share, None, Rate(0, 100), [])


def measured(*rows):
    return Measurement(100, Rate(50, 100), rows)
