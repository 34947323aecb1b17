import torch

from wiper_cli.purifiers import bti_dbf
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.settings_field import BTIDBF


def test_inversion_by_hand():
    mask, h = torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    hz = torch.tensor([[3.0, 4.0], [2.0, 1.0]])
    # errors: benign (0, 1), rest (3, 0), each a mean over 4 elements, over the mean square 12 / 4 of h
    loss = bti_dbf.inversion(mask, h, hz, torch.tensor(0.01), 0.02)
    torch.testing.assert_close(loss, torch.tensor((0.1 * 1 - 9) / 12))
    torch.testing.assert_close(bti_dbf.inversion(mask, h, hz, torch.tensor(0.03), 0.02), torch.tensor(0.03))


def test_the_generator_starts_near_the_image_at_any_size():
    for shape in ((2, 1, 8, 8), (1, 3, 33, 21)):
        generator = torch.Generator().manual_seed(0)
        unet = bti_dbf.Generator(shape[1], 4, generator).to(torch.device("cpu"))
        x = torch.rand(shape, generator=generator)
        z = unet(x)
        assert z.shape == x.shape
        assert 0 < float((z - x).square().mean()) < 0.05
        assert 0 <= float(z.min()) <= float(z.max()) <= 1
        gradients = torch.autograd.grad(z.square().sum(), unet.kernels)
        assert all(float(g.abs().max()) > 0 for g in gradients)


def test_inverts_unlearns_and_is_deterministic(classifier, clean, rates):
    settings = BTIDBF(rounds=2, epochs=1, generator_epochs=2, mask_epochs=3, generator_width=4, flip=False)
    first, second = (settings.run(Task(classifier, clean, seed=0)) for _ in range(2))
    assert first.edit == second.edit
    assert [epoch.epoch for epoch in first.history] == [1, 2]
    assert len(first.notes) == 2
    assert first.notes[0].startswith("Round 1: ")
    assert first.notes[0].split()[-1] == first.notes[1].split()[-1]
    assert rates(classifier, clean, first.edit)[0] > 0.85
