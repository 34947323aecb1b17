import pytest
import torch

from wiper_cli.perturbations import FAMILIES, FILLS, Recovered, filling, square, stamp, usable_fills

SHAPES = [(3, 32, 32), (1, 28, 28), (4, 9, 7), (3, 40, 64), (2, 1, 5)]
FREE = [name for name, family in FAMILIES.items() if family.leaves]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(family, shape=(3, 32, 32), count=4, **bounds):
    return FAMILIES[family].random(count, shape, generator(), **bounds)


def images(count, shape=(3, 32, 32)):
    return torch.rand((count, *shape), generator=generator(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_size_and_channel_count(family, shape):
    pool, x = pool_of(family, shape), images(5, shape)
    member = torch.tensor([0, 1, 2, 3, 0])
    stamped = pool.stamp(x, member)
    assert (stamped.shape, stamped.dtype) == (x.shape, torch.float32)
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert len(pool) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_it_changes_images(family):
    x = images(4)
    assert not torch.allclose(pool_of(family).stamp(x, torch.arange(4)), x)


@pytest.mark.parametrize("family", FAMILIES)
def test_splitting_a_batch_changes_nothing(family):
    pool, x, member = pool_of(family), images(6), torch.tensor([3, 1, 0, 2, 1, 3])
    whole = pool.stamp(x, member)
    parts = torch.cat([pool.stamp(x[i : i + 1], member[i : i + 1]) for i in range(6)])
    assert torch.allclose(whole, parts, atol=1e-6)


@pytest.mark.parametrize("family", FREE)
def test_gradients_reach_every_parameter_of_the_members_used(family):
    pool, x = pool_of(family), images(4)
    weight = torch.rand(x.shape, generator=generator(2)) - 0.5
    (pool.stamp(x, torch.tensor([0, 0, 1, 1])) * weight).sum().backward()
    for value in pool.parameters:
        assert value.is_leaf
        assert value.grad[:2].abs().sum() > 0
        assert value.grad[2:].abs().sum() == 0


def test_a_square_has_nothing_to_optimise():
    pool = pool_of("square")
    assert pool.parameters == []
    pool.sign_step()


@pytest.mark.parametrize("family", FREE)
def test_steps_go_downhill_and_stay_in_bounds(family):
    pool, x = pool_of(family), images(8)
    member, weight = torch.arange(8) % 4, torch.rand((3, 32, 32), generator=generator(2)) - 0.5
    first = None
    for _ in range(25):
        loss = (pool.stamp(x, member) * weight).sum()
        first = first if first is not None else float(loss.detach())
        loss.backward()
        pool.sign_step(0.1)
        assert all(value.grad is None for value in pool.parameters)
    assert float((pool.stamp(x, member) * weight).sum().detach()) < first
    for name, leaf in pool.leaves.items():
        value = pool.state[name].detach()
        if leaf.limit:
            assert float(value.abs().max()) <= float(pool.state[leaf.limit][0]) + 1e-7
        else:
            assert leaf.low <= float(value.min()) <= float(value.max()) <= leaf.high


def test_additive_and_smooth_keep_their_sup_norm():
    x = torch.full((4, 3, 32, 32), 0.5)
    for family, bounds in (("additive", {"bound": 0.05}), ("smooth", {"amplitude": 0.05})):
        change = pool_of(family, **bounds).stamp(x, torch.arange(4)) - x
        assert 0.02 < change.abs().max().item() <= 0.05 + 1e-6


def test_a_warp_moves_by_pixels():
    family = FAMILIES["warp"]
    x = images(1)
    flow = torch.zeros(1, 2, 6, 6)
    flow[:, 0] = 1.0  # sample one column to the right
    moved = family({"flow": flow, "bound": torch.ones(1)}).stamp(x, torch.zeros(1, dtype=torch.long))
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-4)
    assert torch.allclose(moved[..., -1], x[..., -1], atol=1e-4)


def test_a_warp_without_flow_is_the_identity():
    x = images(2, (1, 20, 33))
    pool = FAMILIES["warp"]({"flow": torch.zeros(1, 2, 6, 6), "bound": torch.ones(1)})
    assert torch.allclose(pool.stamp(x, torch.zeros(2, dtype=torch.long)), x, atol=1e-4)


def test_sparse_shows_exactly_so_many_pixels():
    x = torch.full((4, 3, 32, 32), 2 / 3)  # no random colour equals it
    changed = (pool_of("sparse", pixels=10).stamp(x, torch.arange(4)) != x).any(1).flatten(1).sum(1)
    assert changed.tolist() == [10] * 4


def test_patch_changes_one_square_only():
    x = torch.full((4, 3, 32, 32), 2 / 3)
    changed = (pool_of("patch", sides=(4, 4)).stamp(x, torch.arange(4)) != x).any(1)
    for one in changed:
        assert int(one.sum()) == 16
        assert int(one.any(0).sum()) == int(one.any(1).sum()) == 4


def test_a_gradient_that_is_not_finite_moves_nothing():
    pool = pool_of("additive")
    before = pool.state["pattern"].detach().clone()
    pool.parameters[0].grad = torch.full_like(before, torch.nan)
    pool.sign_step()
    assert torch.equal(pool.state["pattern"].detach(), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_member_alone_stamps_as_in_the_pool(family):
    pool, x = pool_of(family), images(3)
    found = pool.recovered(2, 7, {"success": 0.5})
    assert (found.family, found.target) == (family, 7)
    assert not any(value.requires_grad for value in found.parameters.values())
    alone = stamp(found, x)
    assert torch.allclose(alone, pool.stamp(x, torch.full((3,), 2)).detach(), atol=1e-6)
    assert not alone.requires_grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pool_around_a_find_begins_with_the_find(family, shape):
    found = pool_of(family, shape).recovered(1, 0)
    around = FAMILIES[family].from_recovered(found, 6, generator(3))
    x = images(6, shape)
    stamped = around.stamp(x, torch.arange(6)).detach()
    assert torch.allclose(stamped[:1], stamp(found, x[:1]), atol=1e-6)
    if min(shape[1:]) > 5:
        assert not torch.allclose(stamped[1:], stamp(found, x[1:]), atol=1e-3)
    still = FAMILIES[family].from_recovered(found, 3, generator(3), jitter=0.0)
    assert torch.allclose(still.stamp(x[:3], torch.arange(3)), stamp(found, x[:3]), atol=1e-6)


def test_another_family_cannot_be_seeded():
    with pytest.raises(ValueError, match="patch transform cannot seed a warp"):
        FAMILIES["warp"].from_recovered(pool_of("patch").recovered(0, 0), 2, generator())


def test_jitter_keeps_a_square_near_and_whole():
    canvas, mask = square((3, 32, 32), 27, 27, 4, "white")
    found = Recovered("square", 0, {"canvas": canvas, "mask": mask})
    around = FAMILIES["square"].from_recovered(found, 20, generator())
    sizes, places = set(), set()
    for i in range(20):
        rows = around.state["mask"][i, 0].any(1).nonzero().flatten()
        sizes.add(len(rows))
        places.add(int(rows[0]))
        assert int(around.state["mask"][i].sum()) == len(rows) * int(around.state["mask"][i, 0].any(0).sum())
    assert sizes == {3, 4, 5}
    assert places <= {26, 27, 28}
    assert len(places) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_joining_keeps_order(family):
    first, second, x = pool_of(family, count=2), pool_of(family, count=3), images(3)
    both = first.joined(second)
    assert len(both) == 5
    alone = second.stamp(x, torch.arange(3))
    assert torch.allclose(both.stamp(x, torch.arange(2, 5)), alone, atol=1e-6)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 32, 32\) met images of \(3, 16, 16\)"):
        pool_of("patch").stamp(images(1, (3, 16, 16)), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides(family):
    first, second = pool_of(family), pool_of(family)
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_fills():
    assert usable_fills(1) == ["white", "black", "grey", "checker", "inverse checker"]
    assert (usable_fills(3), filling("red", (3, 32, 32), 2)[:, 0, 0].tolist()) == (list(FILLS), [1, 0, 0])
    assert filling("checker", (1, 32, 32), 3)[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert filling("checker", (1, 64, 64), 4)[0, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_cuda(family):
    pool, x = pool_of(family), images(4)
    there = pool.to("cuda").stamp(x.cuda(), torch.arange(4, device="cuda")).cpu()
    assert torch.allclose(there, pool.stamp(x, torch.arange(4)), atol=1e-4)
