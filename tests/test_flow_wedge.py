"""A first-person map is exact: it turns, steps and flows by whole cells, and what is unseen is left to its velocity."""

import pytest
import torch

from terrella.dynamics import FlowWedge, FlowWedgeConfig
from terrella.dynamics.flow_wedge import VELOCITIES
from terrella.errors import ConfigError
from terrella.laws import shaken
from terrella.nn.flow_map import sliding
from terrella.nn.latents import TokenSpec
from terrella.nn.perspective import crossings, rays
from terrella.nn.wedge import quarter_turns, wedge
from terrella.spec import ActionSpec

LEFT, RIGHT, FORWARD, REST = (torch.full((1, 1), float(n)) for n in range(4))
TOKENS, ACTION = FlowWedge.example


def part(**settings):
    config = FlowWedgeConfig(**{"reach": 4, "features": 3, "dim": 8, "turns": 0} | settings)
    return shaken(FlowWedge(config, TOKENS, ACTION), torch.float64)


def seen(backbone, *actions, start=(LEFT, FORWARD)):
    """The egocentric map after seeing random frames under `start`, then only acting."""
    slabs = backbone.init(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for n, row in enumerate((*start, *actions)):
        z = torch.randn(1, TOKENS.n, TOKENS.channels, generator=generator, dtype=torch.float64)
        slabs, _ = backbone.commit(slabs, row, z, torch.full((1,), float(n < len(start))))
    return ego_map(backbone, slabs)


def ego_map(backbone, slabs):
    """`(V, S, S, F)`."""
    return backbone.egocentric(slabs.recurrent["map"], slabs.recurrent["pose"].long())[0].movedim(2, 0)


def flowed(ego, turns):
    """Slide each channel by its velocity, as a viewer has it who has turned left `turns` times since the beginning."""
    moved = [quarter_turns(torch.tensor(v), torch.tensor(-turns)).tolist() for v in VELOCITIES[: len(ego)]]
    return torch.stack([m.roll(v, (0, 1)) for m, v in zip(ego, moved)])


CHANGES = {  # what an action does to the map of a viewer who faces up
    "left": (LEFT, 1, lambda ego: ego.rot90(-1, (1, 2))),
    "right": (RIGHT, -1, lambda ego: ego.rot90(1, (1, 2))),
    "forward": (FORWARD, 0, lambda ego: ego.roll(1, 1)),
    "rest": (REST, 0, lambda ego: ego),
}


def motion_gap(backbone, name, flow_first=True):
    """How far the memory is from moving against the viewer, and by its velocities, when `name` is done unseen."""
    row, turns, change = CHANGES[name]
    before = seen(backbone)  # which has turned left once
    full = before if len(before) > 1 else before.expand(len(VELOCITIES), -1, -1, -1)
    expected = change(flowed(full, 1)) if flow_first else flowed(change(full), 1 + turns)
    return float((seen(backbone, row) - expected).abs().max())


@pytest.mark.parametrize("flow_first", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_memory_moves_with_the_world_and_against_the_viewer(name, flow_first):
    """Flowing and then turning or stepping is turning or stepping and then flowing."""
    assert motion_gap(part(), name, flow_first) < 1e-5
    assert motion_gap(part(velocities=False), name, flow_first) > 1e-2  # velocity channels off: the same test fails
    if name != "rest":
        assert motion_gap(part(self_motion=False), name, flow_first) > 1e-2  # and so it does with self-motion off


def test_turns_undo_one_another():
    still = part(velocities=False)
    before = seen(still)
    assert torch.equal(seen(still, LEFT, LEFT, LEFT, LEFT), before)
    assert torch.equal(seen(still, LEFT, RIGHT), before)
    assert torch.equal(seen(still, LEFT, LEFT, FORWARD, LEFT, LEFT, FORWARD), before)
    assert not torch.equal(seen(still, LEFT), before)


def test_only_the_wedge_is_written():
    """A frame changes what lies in view and nothing else, and closed gates change nothing."""
    backbone = part()
    slabs = backbone.init(1, dtype=torch.float64)
    slabs, _ = backbone.commit(slabs, LEFT, torch.randn(1, 4, 6, dtype=torch.float64), torch.ones(1))
    ego = ego_map(backbone, slabs)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[tuple((wedge(4, 60.0) + 4).T)] = True
    assert (ego.abs().amax((0, -1)) > 0).equal(inside)
    backbone.filter.clear.bias.data.fill_(-torch.inf)
    slabs, _ = backbone.commit(
        backbone.init(1, dtype=torch.float64), LEFT, torch.ones(1, 4, 6, dtype=torch.float64), torch.ones(1)
    )
    assert slabs.recurrent["map"].abs().max() == 0


def turned(maps, velocities=True):
    """A world turned by a quarter to the left: its places, and the velocities of what moves there."""
    after = maps.rot90(1, (1, 2))
    left = [VELOCITIES.index(tuple(quarter_turns(torch.tensor(v), torch.tensor(1)).tolist())) for v in VELOCITIES]
    return torch.empty_like(after).index_copy_(3, torch.tensor(left), after) if velocities else after


def test_what_stands_ahead_turns_things_alike_in_all_directions():
    turns = part(turns=4).turns
    maps = torch.rand(1, 9, 9, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(turns(turned(maps)), turned(turns(maps)), rtol=0, atol=1e-12)
    assert not torch.allclose(turns(turned(maps, velocities=False)), turned(turns(maps), velocities=False))


def test_turning_loses_and_makes_nothing():
    turns = part(turns=4).turns
    maps = torch.rand(2, 9, 9, 5, 3, dtype=torch.float64)
    after = turns(maps)
    torch.testing.assert_close(after.sum(3), maps.sum(3))
    assert (after[..., 0, :] > maps[..., 0, :]).all()  # some of it stayed
    turns.blocks[2].bias.data[0] = 1e9
    torch.testing.assert_close(turns(maps), maps, rtol=0, atol=0)  # now everything goes on


def test_what_was_expected_is_believed():
    """A thing seen where one velocity said it would be has that velocity; one that nobody expected may have any."""
    weigh = part().filter
    weigh.surprise.data.fill_(-5.0)
    view = torch.zeros(1, 2, 5, 3, dtype=torch.float64)
    view[0, 0, 3] = 0.2
    evidence, seen = torch.randn(1, 2, 8, dtype=torch.float64), torch.ones(1, 1, 1, 1)
    weigh.clear.weight.data.zero_()
    weigh.clear.bias.data.fill_(torch.inf)
    after = weigh(view, evidence, seen)
    there = (8 * weigh.blocks[0](evidence)).sigmoid()
    torch.testing.assert_close(after.sum(2), there)
    assert (after[0, 0, 3] > 0.85 * there[0, 0]).all()
    torch.testing.assert_close(after[0, 1], there[0, 1].expand(5, -1) / 5)
    assert torch.equal(weigh(view, evidence, 0 * seen), view)


def test_bytes_are_constant_for_ten_thousand_steps():
    backbone = part().float()
    slabs = backbone.init(1)
    slabs, _ = backbone.commit(slabs, REST, torch.ones(1, 4, 6), torch.ones(1))
    sizes = set()
    for n in range(10_000):
        slabs, _ = backbone.commit(slabs, (LEFT, FORWARD)[n % 2], torch.ones(1, 4, 6), torch.zeros(1))
        sizes.add(slabs.nbytes)
    assert len(sizes) == 1
    assert slabs.recurrent["pose"].abs().max() < 9


def test_the_published_wedge():
    assert len(wedge(16, 60.0)) == 177


def test_a_sliding_view_is_refused():
    action = ActionSpec("multi_discrete", nvec=(3, 3), shape=(2,), motion=sliding(1))
    with pytest.raises(ConfigError, match="flow"):
        FlowWedge(FlowWedgeConfig(), TokenSpec(1, 1, ((0.0, 0.0),)), action)


def test_rays_go_through_the_cells_that_a_column_shows():
    cells = wedge(6, 60.0).tolist()
    at, _ = rays(6, 60.0, 8)  # 8 columns of 4 rays, 12 points each
    straight = [[cells[k] for k in row if k < len(cells)] for row in at[15:17].tolist()]
    assert all(side == 0 for row in straight for _, side in row)
    assert [row[-1] for row in straight] == [[-6, 0], [-6, 0]]
    assert cells[at[0, -1]] == [-6, -3]
    assert cells[at[-1, -1]] == [-6, 3]  # 6 tan(30 degrees) = 3.5
    columns, _ = crossings(6, 60.0, 8)
    assert set(columns[cells.index([-6, 0])].tolist()) == {3, 4}
    assert set(columns[cells.index([-6, -3])].tolist()) <= {0, 1}
    assert columns[cells.index([-1, 0])].tolist() == [1, 3, 4, 6]  # near things are wide


def test_tokens_of_other_streams_are_no_part_of_the_picture():
    tokens = TokenSpec(5, 6, (*TOKENS.places, (0.0, 100.0)))
    backbone = FlowWedge(FlowWedgeConfig(reach=4, features=3, dim=8), tokens, ACTION)
    assert backbone.reader.columns.width == 2
    assert backbone.predict(backbone.init(1), LEFT).shape == (1, 5, 6)


def test_a_map_too_small_for_the_view_is_refused():
    FlowWedge(FlowWedgeConfig(reach=8, side=11), TOKENS, ACTION)
    with pytest.raises(ConfigError, match="larger `side`"):
        FlowWedge(FlowWedgeConfig(reach=8, side=10), TOKENS, ACTION)
