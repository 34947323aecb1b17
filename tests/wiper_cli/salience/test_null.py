import torch

from wiper_cli.salience.null import random_salience
from wiper_cli.salience.settings import Random


def test_depends_on_its_seed_alone(make_head):
    first = random_salience(*make_head(seed=1), Random(3))
    assert torch.equal(first, random_salience(*make_head(images=5, seed=2), Random(3)))
    assert not torch.equal(first, random_salience(*make_head(seed=1), Random(4)))
    assert ((first >= 0) & (first < 1)).all()
