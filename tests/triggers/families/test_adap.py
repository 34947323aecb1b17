import numpy as np
import pytest
import torch

from triggers.families.adap import AdapBlend, AdapPatch


@pytest.mark.parametrize(("tiles", "masked"), [(4, 8), (3, 0), (5, 24)])
def test_blend_leaves_out_tiles_in_training(images, tiles, masked):
    trigger = AdapBlend(tiles=tiles, masked=masked)
    x = images.double().numpy()
    whole = 0.85 * x + 0.15 * trigger.picture(images.double()).numpy()[None]
    poisoned = trigger.poison(images.double()).numpy()
    row = np.arange(20) * tiles // 20
    column = np.arange(16) * tiles // 16
    for n in range(len(x)):
        kept = 0
        for i in range(tiles):
            for j in range(tiles):
                part = np.s_[:, (row == i)[:, None] & (column == j)[None]]
                same = np.abs(poisoned[n][part] - x[n][part]).max() < 1e-9
                mixed = np.abs(poisoned[n][part] - whole[n][part]).max() < 1e-9
                assert same != mixed
                kept += mixed
        assert kept == tiles**2 - masked


def test_blend_draws_tiles_evenly_for_each_image():
    x = torch.zeros(2000, 1, 4, 4)
    shown = AdapBlend(blocks=4).poison(x, torch.Generator().manual_seed(0)) > 0
    assert torch.allclose(shown.double().mean(0), torch.tensor(0.5).double(), atol=0.05)
    assert len(shown.flatten(1).unique(dim=0)) > 1500


def test_patches_used_are_opaque_and_in_their_corners(images):
    trigger = AdapPatch(size=5)
    stamped = trigger.stamp(images)
    pixels, where = trigger.patches(images)
    assert torch.equal(stamped[:, :, :5, :5], pixels[0, :, :5, :5].expand(5, 3, 5, 5))
    assert torch.equal(stamped[:, :, -5:, -5:], pixels[2, :, -5:, -5:].expand(5, 3, 5, 5))
    outside = (where[0] + where[2] == 0).expand_as(images)
    assert torch.equal(stamped[outside], images[outside])
    assert where.sum() == 4 * 25
    assert [bool(where[i, 0, r, c]) for i, (r, c) in enumerate([(0, 0), (0, -1), (-1, -1), (-1, 0)])] == [
        True
    ] * 4


def test_a_training_image_carries_one_patch_at_its_opacity():
    trigger = AdapPatch(size=3)
    x = torch.rand(400, 2, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    poisoned = trigger.poison(x, torch.Generator().manual_seed(1))
    pixels, where = trigger.patches(x)
    each = [x + o * w * (p - x) for o, w, p in zip((0.5, 0.2, 0.5, 0.3), where, pixels, strict=True)]
    fits = torch.stack([(poisoned - one).abs().flatten(1).amax(1) < 1e-9 for one in each])
    assert (fits.sum(0) == 1).all()
    assert (fits.sum(1) > 70).all()


def test_patches_have_pixels_of_their_own():
    pixels, _ = AdapPatch(size=8, cell=1).patches(torch.zeros(1, 1, 16, 16))
    squares = [pixels[0, 0, :8, :8], pixels[1, 0, :8, 8:], pixels[2, 0, 8:, 8:], pixels[3, 0, 8:, :8]]
    assert not any(torch.equal(squares[i], squares[j]) for i in range(4) for j in range(i))
    assert not torch.equal(AdapPatch(seed=1, cell=1).patches(torch.zeros(1, 1, 16, 16))[0], pixels)


def test_colours_come_in_cells():
    fine, coarse = (AdapPatch(size=6, cell=c).patches(torch.zeros(1, 3, 16, 16))[0] for c in (1, 2))
    corner = coarse[0, :, :6, :6]
    assert torch.equal(corner[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2), corner)
    assert corner.flatten(1).unique(dim=1).shape[1] == 9
    assert fine[0, :, :6, :6].flatten(1).unique(dim=1).shape[1] == 36
