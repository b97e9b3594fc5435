"""Flow memory is exact: what moves, moves in memory, seen or not. Without its velocities or self-motion it is not."""

import pytest
import torch

from terrella.dynamics import Flow, FlowConfig
from terrella.errors import ConfigError
from terrella.laws import shaken
from terrella.nn.flow_map import Canvas, FlowMap, SelfMotion, look, sliding
from terrella.nn.latents import TokenSpec
from terrella.spec import ActionSpec, Motion

SIDE, MOST, CHANNELS, FRAMES = 7, 3, 2, 9


def square(side):
    return TokenSpec(side * side, CHANNELS, tuple((float(r), float(c)) for r in range(side) for c in range(side)))


def camera(extent=SIDE, most=MOST):
    return ActionSpec("multi_discrete", nvec=(2 * most + 1,) * 2, shape=(2,), motion=sliding(most, extent))


def flow(view=SIDE, extent=SIDE, **settings):
    return shaken(Flow(FlowConfig(features=4, width=8, **settings), square(view), camera(extent)), torch.float64)


def watch(part, frames, motions):
    """Commit frames `(T, h, w, Z)` after motions `(T, 2)`; returns channels as the viewer has them, `(V, S, S, F)`."""
    slabs = part.init(1, dtype=torch.float64)
    for z, motion in zip(frames, motions):
        slabs, _ = part.commit(slabs, motion[None].float() + MOST, z.flatten(0, 1)[None], torch.ones(1))
    return part.map.aligned(slabs.recurrent["map"], slabs.recurrent["place"].long())[0]


def worlds(velocity=(0, 0), path=None):
    """A torus that moves by `velocity`, seen whole by a camera that follows `path`: frames `(T, S, S, Z)`."""
    world = torch.randn(SIDE, SIDE, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    extra = torch.randn(FRAMES, SIDE, SIDE, CHANNELS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    path = torch.zeros(FRAMES, 2, dtype=torch.int64) if path is None else path
    shifts = [tuple((torch.tensor(velocity) * t - path[: t + 1].sum(0)).tolist()) for t in range(FRAMES)]
    return torch.stack([(world + 0.3 * e).roll(s, (0, 1)) for e, s in zip(extra, shifts)])


def velocity_gap(part, velocity):
    """How far memory is from moving with its input: h_t[moved](v) = shift_t h_t[still](v - velocity)."""
    still = torch.zeros(FRAMES, 2, dtype=torch.int64)
    moved, rest = watch(part, worlds(velocity), still), watch(part, worlds(), still)
    known = {tuple(v): i for i, v in enumerate(part.map.velocity.tolist())}
    gaps = []
    for v, i in known.items():
        # A memory without channels has only one to offer.
        j = known.get((v[0] - velocity[0], v[1] - velocity[1]), 0 if len(known) == 1 else None)
        if j is not None:
            shift = tuple((FRAMES - 1) * s for s in velocity)
            gaps.append((moved[i] - rest[j].roll(shift, (0, 1))).abs().max())
    return float(torch.stack(gaps).max())


def camera_gap(part):
    """How far memory under a moving camera is from that of a still one, moved the other way."""
    path = torch.randint(-MOST, MOST + 1, (FRAMES, 2), generator=torch.Generator().manual_seed(3))
    moving = watch(part, worlds(path=path), path)
    still = watch(part, worlds(), torch.zeros_like(path))
    return float((moving - still.roll(tuple((-path.sum(0)).tolist()), (1, 2))).abs().max())


@pytest.mark.parametrize("kind", ["gated", "recurrent"])
@pytest.mark.parametrize("velocity", [(1, 0), (0, -1), (-1, 1)])
def test_memory_moves_with_its_input(kind, velocity):
    assert velocity_gap(flow(kind=kind), velocity) < 1e-5
    assert velocity_gap(flow(kind=kind, speed=0), velocity) > 1e-2  # velocity channels off: the same test fails


@pytest.mark.parametrize("kind", ["gated", "recurrent"])
def test_memory_moves_against_the_camera(kind):
    assert camera_gap(flow(kind=kind)) < 1e-5
    assert camera_gap(flow(kind=kind, self_motion=False)) > 1e-2  # self-motion off: the same test fails


def test_places_are_shifts():
    """Reading at a place is rolling the map there, for offsets of any sign and size."""
    maps = torch.randn(2, 9, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    at = torch.randint(-20, 20, (2, 9, 2), generator=torch.Generator().manual_seed(1))
    seen = look(maps, FlowMap(SIDE, (3, 4), 1).places(at % SIDE))
    for b in range(2):
        for v in range(9):
            whole = maps[b, v].roll(tuple((-at[b, v]).tolist()), (0, 1))
            assert torch.equal(seen[b, v], whole[:3, :4])


def test_the_far_edge_of_a_partial_view_stays_empty():
    """One pixel block at the left edge writes nothing at the right edge, unlike padding that wraps inside the view."""
    part = flow(view=11, extent=16)
    frames = torch.zeros(2, 1, 11, 11, CHANNELS, dtype=torch.float64)
    frames[1, :, :2, :1] = 3.0
    still = torch.zeros(1, 2, dtype=torch.int64)
    gap = (watch(part, frames[0], still) - watch(part, frames[1], still)).abs().amax((0, -1))
    assert gap[:2, 0].min() > 1e-3
    assert gap[:, 8:11].max() == 0


def test_what_is_not_seen_is_left_alone():
    part = flow(view=3)
    slabs = part.init(1, dtype=torch.float64)
    row, z = torch.full((1, 2), float(MOST)), torch.randn(1, 9, CHANNELS, dtype=torch.float64)
    slabs, _ = part.commit(slabs, row, z, torch.ones(1))
    before = slabs.recurrent["map"]
    slabs, _ = part.commit(slabs, row, z, torch.zeros(1))
    assert torch.equal(before, slabs.recurrent["map"])  # only places moved


def test_bytes_are_constant_for_ten_thousand_steps():
    part = flow(view=3).float()
    slabs = part.init(1)
    row, z = torch.full((1, 2), 4.0), torch.randn(1, 9, CHANNELS)
    sizes = set()
    for _ in range(10_000):
        slabs, _ = part.commit(slabs, row, z, torch.zeros(1))
        sizes.add(slabs.nbytes)
    assert len(sizes) == 1
    assert slabs.recurrent["place"].max() < SIDE


def test_parameters_do_not_depend_on_velocities():
    counts = {sum(p.numel() for p in flow(speed=speed).parameters()) for speed in (0, 1, 2)}
    assert len(counts) == 1


def test_rows_tell_the_motion():
    action = ActionSpec("discrete", n=3, start=5, motion=Motion((((0, 0, 1), (-2, 0, 0), (0, 4, 0)),), "body"))
    rows = torch.tensor([[5.0], [6.0], [7.0], [float("nan")]])
    assert SelfMotion(action, 2)(rows).tolist() == [[0, 0, 1], [-1, 0, 0], [0, 2, 0], [0, 0, 0]]
    with pytest.raises(ConfigError, match="multiple of 4"):
        SelfMotion(action, 4)
    with pytest.raises(ConfigError, match="declare"):
        SelfMotion(ActionSpec("discrete", n=3))


def test_motion_is_found_in_frames():
    """Without a declaration shifts are read off the frames, exactly where they have texture, and so memory is too."""
    undeclared = ActionSpec("multi_discrete", nvec=(2 * MOST + 1,) * 2, shape=(2,))
    config = FlowConfig(features=4, width=8, infer=MOST, side=16)
    part = shaken(Flow(config, square(11), undeclared), torch.float64)
    told = Flow(FlowConfig(features=4, width=8), square(11), camera(16)).double().eval()
    told.load_state_dict({k: v for k, v in part.state_dict().items() if not k.startswith("motion.")}, strict=False)
    world = torch.randn(16, 16, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = torch.randint(-MOST, MOST + 1, (FRAMES, 2), generator=torch.Generator().manual_seed(1))
    path[0] = 0
    places = path.cumsum(0).tolist()
    frames = torch.stack([world.roll((-r, -c), (0, 1))[:11, :11] for r, c in places])
    torch.testing.assert_close(watch(part, frames, path), watch(told, frames, path), atol=1e-9, rtol=0)


def test_expecting_the_motion_is_learned():
    undeclared = ActionSpec("discrete", n=3)
    part = Flow(FlowConfig(features=4, width=8, infer=1, side=12), square(6), undeclared)
    generator = torch.Generator().manual_seed(0)
    world, moves = torch.randn(12, 12, CHANNELS, generator=generator), torch.tensor([[0, 0], [0, 1], [-1, 0]])
    rows = torch.randint(3, (8, 6), generator=generator)
    places = moves[rows].cumsum(1).tolist()
    z = torch.stack([torch.stack([world.roll((-r, -c), (0, 1))[:6, :6] for r, c in p]) for p in places]).flatten(2, 3)
    optimizer = torch.optim.Adam(part.motion.parameters(), 3e-2)
    for _ in range(60):
        outcome, _ = part.parallel(z, rows[..., None].float(), torch.ones(8, 6))
        optimizer.zero_grad()
        outcome.extra.mean().backward()
        optimizer.step()
    found = part.motion.shifts[part.motion.expect(torch.arange(3.0)[:, None]).argmax(-1)]
    assert torch.equal(found, moves)


def test_writing_in_place_gives_the_gradients_of_copies() -> None:
    torch.manual_seed(0)
    maps, first = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    places, weight = torch.tensor([[0, 2, 5], [2, 1, 4]]), torch.randn(4, dtype=torch.float64, requires_grad=True)

    def in_place() -> torch.Tensor:
        canvas = Canvas(maps)
        canvas.write(places[0], first * weight)
        seen = canvas.read(places[1])
        canvas.write(places[1], seen.sin() * weight)
        return torch.cat([seen, canvas.read(torch.arange(6))]).square().sum()

    def copied() -> torch.Tensor:
        flat = maps.view(6, 4).index_copy(0, places[0], first * weight)
        seen = flat[places[1]]
        return torch.cat([seen, flat.index_copy(0, places[1], seen.sin() * weight)]).square().sum()

    for ours, theirs in zip(*(torch.autograd.grad(f(), [first, weight]) for f in (in_place, copied))):
        assert torch.allclose(ours, theirs, rtol=1e-12)
