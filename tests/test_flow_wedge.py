"""A first-person map is exact: it turns, steps and flows by whole cells, and what is unseen is left to its velocity."""

import pytest
import torch

from terrella.dynamics import FlowWedge, FlowWedgeConfig
from terrella.dynamics.flow_wedge import VELOCITIES
from terrella.errors import ConfigError
from terrella.laws import shaken
from terrella.nn.flow_map import sliding
from terrella.nn.latents import TokenSpec
from terrella.nn.wedge import bearings, quarter_turns, wedge
from terrella.spec import ActionSpec

LEFT, RIGHT, FORWARD, REST = (torch.full((1, 1), float(n)) for n in range(4))
TOKENS, ACTION = FlowWedge.example


def part(**settings):
    config = FlowWedgeConfig(**{"reach": 4, "features": 3, "dim": 8, "layers": 1, "heads": 2, "mixer": 0} | settings)
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
    backbone.cell.update.bias.data[:3] = -torch.inf
    slabs, _ = backbone.commit(
        backbone.init(1, dtype=torch.float64), LEFT, torch.ones(1, 4, 6, dtype=torch.float64), torch.ones(1)
    )
    assert slabs.recurrent["map"].abs().max() == 0


def test_a_closed_mixer_leaves_the_maps_alone():
    with_mixer, without = part(mixer=4), part()
    with_mixer.mixer.leave.bias.data[: 5 * 3] = -1e9
    with_mixer.mixer.leave.weight.data.zero_()
    maps = torch.randn(1, 9, 9, 5, 3, dtype=torch.float64)
    assert torch.equal(with_mixer._flow(maps), without._flow(maps))


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


def test_an_image_column_is_embedded_like_the_ground_it_shows():
    """Of all tokens, those in the middle columns are most like the cells straight ahead, and the left ones like those
    to the left."""
    torch.manual_seed(0)
    tokens = TokenSpec(64, 4, tuple((float(r), float(c)) for r in range(8) for c in range(8)))
    image, ground = bearings(tokens, 6, 60.0, 256)
    cells = wedge(6, 60.0).tolist()
    bottom = image[56:]  # what is near
    likeness = bottom @ ground[[cells.index([-2, 0]), cells.index([-2, -1])]].T
    assert set(likeness[:, 0].topk(2).indices.tolist()) == {3, 4}
    assert int(likeness[:, 1].argmax()) <= 1
