"""What every metric keeps, over their table: nothing here names one."""

import subprocess
import sys
from itertools import product

import pytest
import torch

from wiper_cli.salience import METRICS


def measure(name, head):
    own = METRICS[name].settings
    return METRICS[name](*head, own and own(**own.quick))


def test_the_table_loads_no_torch_and_no_metric_a_trigger():
    code = (
        "import sys; from importlib import import_module; from wiper_cli.salience import METRICS as M\n"
        "print('torch' in sys.modules)\n"
        "[import_module('wiper_cli.salience.' + one.place.split(':')[0]) for one in M.values()]\n"
        "print('triggers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", METRICS)
def test_its_facts_are_told(name):
    metric = METRICS[name]
    assert metric.title
    assert metric.low
    assert metric.source or metric.null


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


@pytest.mark.parametrize("name", [name for name in METRICS if not METRICS[name].null])
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
