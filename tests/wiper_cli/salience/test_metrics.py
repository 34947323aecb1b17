import subprocess
import sys
from itertools import product

import pytest
import torch

from wiper_cli.salience import METRICS
from wiper_cli.salience.bs import Momentum, benign_salience
from wiper_cli.salience.settings import GradientMagnitude, MomentumSalience, Shapley

QUICK = {"shapley": Shapley(permutations=20), "mbs": MomentumSalience(batch=16)}


def measure(name, head):
    return METRICS[name](*head, QUICK.get(name))


def test_the_table_loads_no_torch():
    code = "import sys, wiper_cli.salience as s; assert 'torch' not in sys.modules and len(s.METRICS) == 8"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("images", "units", "classes"), [(60, 7, 4), (1, 1, 2), (2, 40, 3), (30, 5, 1), (5, 3, 200)]
)
def test_any_shape_of_head(make_head, name, images, units, classes):
    found = measure(name, make_head(images, units, classes))
    assert found.dtype == torch.float64
    assert found.shape == (units,)
    assert found.isfinite().all()
    assert METRICS[name].signed or (found >= 0).all()


@pytest.mark.parametrize("name", METRICS)
def test_one_class_only_and_labels_of_the_model_itself(make_head, name):
    features, logits, labels, weight = make_head()
    for given in (torch.zeros_like(labels), logits.argmax(1)):
        assert measure(name, (features, logits, given, weight)).isfinite().all()


@pytest.mark.parametrize("name", METRICS)
def test_twice_the_same_digits_and_no_gradient(make_head, name):
    features, logits, labels, weight = make_head()
    head = (features.requires_grad_(), logits, labels, weight.requires_grad_())
    first = measure(name, head)
    assert not first.requires_grad
    assert torch.equal(first, measure(name, head))


@pytest.mark.parametrize(
    ("name", "dtype"),
    list(product(METRICS, [torch.float32, torch.bfloat16])),
    ids=lambda x: str(x).split(".")[-1],
)
def test_sums_are_float64_whatever_the_input(make_head, name, dtype):
    features, _, labels, weight = (x.to(dtype) if x.is_floating_point() else x for x in make_head())
    logits = (features.double() @ weight.double().T).to(dtype)
    rounded = (features, logits, labels, weight)
    exact = (features.double(), logits.double(), labels, weight.double())
    torch.testing.assert_close(measure(name, rounded), measure(name, exact), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_memory_layout_does_not_matter(make_head, name):
    features, logits, labels, weight = make_head()
    odd = (features.T.contiguous().T, logits.T.contiguous().T, labels, weight.T.contiguous().T)
    torch.testing.assert_close(measure(name, odd), measure(name, (features, logits, labels, weight)))


@pytest.mark.parametrize("name", [name for name in METRICS if not METRICS[name].by_batch])
def test_the_order_of_images_does_not_matter(make_head, name):
    features, logits, labels, weight = make_head()
    back = (features.flip(0), logits.flip(0), labels.flip(0), weight)
    torch.testing.assert_close(measure(name, back), measure(name, (features, logits, labels, weight)))


@pytest.mark.parametrize("name", [name for name in METRICS if name != "random"])
def test_low_is_a_unit_that_the_clean_data_do_not_need(make_head, name):
    features, logits, _, weight = make_head(images=200)
    bias = logits - features @ weight.T
    features, weight = features.clone(), weight.clone()
    features[:, 4] = 0  # never active, and without a say
    weight[:, 4] = 0
    logits = features @ weight.T + bias
    found = measure(name, (features, logits, logits.argmax(1), weight))
    assert float(found[4]) == 0
    assert float(found[4]) < float(found.median())
    assert METRICS[name].low


@pytest.mark.parametrize(
    ("name", "settings"),
    [("bs", None), ("integrated-gradients", None), ("shapley", Shapley(baseline="zero", permutations=50))],
)
def test_signed_metrics_put_a_harmful_unit_under_an_idle_one(make_head, name, settings):
    features, _, _, weight = make_head(images=200, spread=0.3)
    features[:, 4] = 0
    labels = (features @ weight.T).argmax(1)
    features[:, 2] = torch.arange(200) % 2 * 3.0  # a unit that speaks for class 0 in half of the images
    weight[:, 2] = torch.tensor([3.0, 0, 0, 0])
    found = METRICS[name](features, features @ weight.T, labels, weight, settings)
    assert float(found[2]) == float(found.min())
    assert float(found[2]) < float(found[4])


def test_momentum_is_the_loop_over_batches(make_head):
    features, logits, labels, weight = head = make_head()
    momentum = Momentum(0.7)
    for rows in torch.arange(60).split(25):
        expected = momentum.update(benign_salience(features[rows], logits[rows], labels[rows], weight))
    assert torch.equal(METRICS["mbs"](*head, MomentumSalience(eta=0.7, batch=25)), expected)
    whole = METRICS["mbs"](*head, MomentumSalience(batch=60))
    assert torch.equal(whole, METRICS["bs"](*head))


def test_refusals(make_head):
    features, logits, labels, weight = make_head()
    metric = METRICS["bs"]
    with pytest.raises(ValueError, match=r"features \[N,D\]"):
        metric(features, logits, labels, weight.T)
    with pytest.raises(ValueError, match=r"features \[N,D\]"):
        metric(features[:0], logits[:0], labels[:0], weight)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        metric(features, logits, labels - 1, weight)
    with pytest.raises(ValueError, match="does not take"):
        metric(features, logits, labels, weight, GradientMagnitude())
    with pytest.raises(ValueError, match="does not take"):
        METRICS["shapley"](features, logits, labels, weight, GradientMagnitude())
