import dataclasses

import numpy as np
import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.issba import ISSBA, likeness, ssim
from triggers.family import quantise


def pictures(count, channels=3, seed=0, side=16):
    """Smooth pictures uint8 [count,C,side,side] with some grain."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear", align_corners=False)
    grain = 0.05 * torch.randn(count, channels, side, side, generator=draw)
    return ((smooth * 0.6 + 0.2 + grain).clamp(0, 1) * 255).round().to(torch.uint8)


def fit(images, seed=0, **settings):
    settings = {"bits": 2, "steps": 150, "width": 4, "rate": 1e-2, **settings}
    labels = torch.zeros(len(images), dtype=torch.int64)
    return ISSBA(**settings).fit(None, images, labels, 0, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def trained():
    return fit(pictures(200))


@pytest.fixture(scope="module")
def unseen():
    return pictures(60, seed=1).float() / 255


def test_decoder_reads_every_secret_from_stored_unseen_images(trained, unseen):
    for seed in range(4):
        own = dataclasses.replace(trained, seed=seed)
        found = own.read(quantise(own.stamp(unseen))) > 0
        assert (found == torch.tensor(own.secret()).bool()).float().mean() > 0.9


def test_residual_is_bounded_and_another_for_every_image(trained, unseen):
    residual = trained.stamp(unseen) - unseen
    assert residual.abs().max() <= trained.strength + 1e-6
    flat = residual.flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True)
    cosine = (flat @ flat.T)[~torch.eye(len(flat), dtype=torch.bool)]
    assert cosine.abs().mean() < 0.7


def test_secrets_of_seeds_differ():
    for bits in (1, 3, 5):
        found = {tuple(ISSBA(bits=bits, seed=seed).secret()) for seed in range(2**bits)}
        assert len(found) == 2**bits
        assert set().union(*found) <= {0.0, 1.0}


def test_variants_hide_other_secrets_with_the_same_networks(trained, unseen):
    other = trained.variant(1)
    assert other.secret() != trained.secret()
    assert other.encoder is trained.encoder
    assert not torch.equal(other.stamp(unseen), trained.stamp(unseen))


def test_ssim_against_loops_in_float64():
    draw = np.random.default_rng(3)
    a = draw.random((2, 2, 9, 12))
    b = np.clip(a + 0.1 * draw.standard_normal(a.shape), 0, 1)
    expected = []
    for x, y in zip(a, b, strict=True):
        values = []
        for c in range(2):
            for i in range(9 - 6):
                for j in range(12 - 6):
                    u, v = x[c, i : i + 7, j : j + 7], y[c, i : i + 7, j : j + 7]
                    cov = ((u - u.mean()) * (v - v.mean())).mean()
                    values.append(
                        (2 * u.mean() * v.mean() + 1e-4)
                        * (2 * cov + 9e-4)
                        / ((u.mean() ** 2 + v.mean() ** 2 + 1e-4) * (u.var() + v.var() + 9e-4))
                    )
        expected.append(np.mean(values))
    found = ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.abs(found - expected).max() < 1e-10
    assert torch.allclose(ssim(torch.from_numpy(a), torch.from_numpy(a)), torch.ones(2, dtype=torch.float64))


def test_likeness_by_hand():
    residual = torch.tensor([[1.0, 0], [3, 4], [1, 1], [6, 8]]).reshape(4, 1, 1, 2)
    assert torch.isclose(likeness(residual), torch.tensor((0.5 + 1) / 2))


def test_grey_and_larger_images(trained):
    grey = torch.rand(2, 1, 23, 40, generator=torch.Generator().manual_seed(0))
    colour = grey.expand(-1, 3, -1, -1)
    as_colour = (trained.stamp(colour * 0.5 + 0.25) - (colour * 0.5 + 0.25)).mean(1, keepdim=True)
    as_grey = trained.stamp(grey * 0.5 + 0.25) - (grey * 0.5 + 0.25)
    assert torch.allclose(as_grey, as_colour, atol=1e-6)


def test_progress_is_told():
    told = []
    ISSBA(steps=3, width=2).fit(
        None, pictures(4), torch.zeros(4), 0, torch.Generator(), lambda *now: told.append(now)
    )
    assert told == [("encoder", 1, 3), ("encoder", 2, 3), ("encoder", 3, 3)]


def test_refusals(trained):
    other = dataclasses.replace(trained, width=5)
    for words, act in (
        ("at least 8x8", lambda: trained.stamp(torch.zeros(1, 3, 7, 16))),
        ("at least 8x8", lambda: fit(pictures(4, side=6))),
        ("two at least, not 0", lambda: fit(pictures(4)[:0])),
        ("fitted with others", lambda: other.stamp(torch.zeros(1, 3, 16, 16))),
    ):
        with pytest.raises(TriggerError, match=words):
            act()
