import pytest

from wiper_cli.salience.settings import IntegratedGradients, MomentumSalience, Shapley
from wiper_cli.verdict import Problem


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (MomentumSalience, "eta", 1.5),
        (MomentumSalience, "batch", 0),
        (IntegratedGradients, "steps", 0),
        (Shapley, "lowest", float("nan")),
        (Shapley, "delta", 0.0),
        (Shapley, "floor", 2.0),
        (Shapley, "permutations", 0),
        (Shapley, "span", -1.0),
    ],
)
def test_a_value_out_of_range_is_named(settings, field, value):
    with pytest.raises(Problem, match=field):
        settings(**{field: value})
