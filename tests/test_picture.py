"""What is remembered can be looked at: maps from the engine, and their way to a page and into a preview."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from terrella import Engine, State, arenas
from terrella.data.episode import Clips
from terrella.errors import StateError, StateSpent
from terrella.evaluation import film, write_preview
from terrella.laws import shaken
from terrella.nn.flow_map import sliding
from terrella.serving import frames
from terrella.serving.catalogue import Served
from terrella.serving.header import MAP, RAW, Header
from terrella.serving.limits import Limits
from terrella.serving.session import Session
from terrella.spec import ActionSpec, EnvSpec, Motion, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import Part, World, WorldConfig

SPEC = WorldSpec(
    {"pixels": StreamSpec("image", (8, 8, 1))},
    ActionSpec("multi_discrete", nvec=(7, 7), shape=(2,), motion=sliding(3, 20)),
)
WALK = ActionSpec("discrete", n=4, motion=Motion((((0, 0, 1), (0, 0, -1), (-1, 0, 0), (0, 0, 0)),), "body"))
REST, DOWN = [3.0, 3.0], [6.0, 3.0]


def world(spec: WorldSpec = SPEC, size: int = 1, level: float | None = None, **settings) -> World:
    torch.manual_seed(0)
    backbone = Part("flow", {"features": 4, "width": 8, "speed": 0, **settings})
    config = WorldConfig(backbone, Part("regression"), {"pixels": Part("patches", {"size": size})}, dream_level=level)
    made = shaken(World(spec, config))
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8, 1), np.uint8)
    blank = np.zeros((1, 2), np.float32)
    made.starts = Clips({"pixels": pixels}, np.full((1, 2, 2), 3, np.float32), blank, blank > 0)
    return made.eval().requires_grad_(False)


def plain() -> World:
    """A world whose memory is no map."""
    return World(SPEC, world_config("debug", SPEC)).eval()


def begun(engine: Engine, sessions: int = 2) -> State:
    pixels = np.random.default_rng(0).integers(0, 256, (sessions, 1, 8, 8, 1), np.uint8)
    return engine.start({"pixels": pixels})


def drawn(engine: Engine, state: State) -> np.ndarray:
    maps = engine.picture(state)
    assert maps is not None
    return maps


def test_the_view_lies_in_the_middle_of_the_map_and_the_map_moves_against_the_viewer():
    engine = Engine(world(level=0.0))
    state = begun(engine)
    first = drawn(engine, state)
    assert (first.dtype, first.shape) == (np.uint8, (2, 20, 20))
    assert np.array_equal(first, drawn(engine, state))  # nothing was consumed
    assert not np.array_equal(first[0], first[1])
    assert first[:, 6:14, 6:14].any((1, 2)).all()
    edge = np.ones((20, 20), bool)
    edge[4:16, 4:16] = False  # reading reaches two cells further than the view
    assert not first[:, edge].any()
    after, _ = engine.step(state, np.array([DOWN, REST]))
    second = drawn(engine, after)
    still = np.stack([np.roll(first[0], -3, 0), first[1]])  # what is left behind stays on the map
    assert np.abs(second.astype(int) - still).max() <= 1


def test_pictures_are_only_of_living_states_of_the_same_world():
    engine = Engine(world())
    state = begun(engine)
    engine.step(state, np.array([REST, REST]))
    with pytest.raises(StateSpent):
        engine.picture(state)
    other = Engine(plain())
    assert other.picture(begun(other)) is None
    with pytest.raises(StateError, match="another world"):
        engine.picture(begun(other))


def session(served: Served) -> Session:
    return Session(served, seed=0, truth=None, limits=Limits(keyframe_every=3))


def sent(line: Session) -> dict[int, tuple[Header, bytes]]:
    """The parts of the present frame, by the stream that their header names."""
    parts = frames.parts(
        line.shot,
        line.served.spec,
        line.memory(),
        session=1,
        epoch=0,
        seq=0,
        gen_us=0,
        flags=frames.frame_flags(late=False, replayed=False),
    )
    return {header.stream: (header, data) for header, data in map(Header.unpack, parts)}


def test_a_map_comes_with_every_frame_and_comes_back_with_it():
    served = Served("flow", world())
    assert served.about()["map"] == {"height": 20, "width": 20, "outline": [(6, 6), (14, 6), (14, 14), (6, 14)]}
    line, seen = session(served), []
    for row in [None, DOWN, REST, DOWN, DOWN, REST]:
        if row is not None:
            line.advance(np.array(row))
        parts = sent(line)
        assert list(parts) == [0, MAP]
        header, data = parts[MAP]
        assert (header.kind, header.width, header.height, header.flags & 4) == (RAW, 20, 20, 0)
        seen.append(data)
    assert len(set(seen)) == len(seen)
    line.rewind(2)
    assert sent(line)[MAP][1] == seen[2]


def test_a_world_without_a_map_sends_none():
    bare = plain()
    bare.starts = world().starts
    served = Served("plain", bare)
    assert served.about()["map"] is None
    assert list(sent(session(served))) == [0]


def test_the_wedge_opens_upwards_from_the_middle():
    spec = replace(SPEC, action=WALK)
    settings = {"reach": 3, "angle": 90.0, "features": 4, "dim": 8, "turns": 0}
    config = WorldConfig(Part("flow_wedge", settings), Part("regression"), {"pixels": Part("patches", {"size": 4})})
    form = Served("wedge", World(spec, config).eval()).map
    assert form is not None
    assert (form["height"], form["width"]) == (7, 7)
    assert np.allclose(form["outline"], [(3.5, 3.5), (0, 0), (7, 0)])


def test_a_preview_shows_the_map_beside_the_dream(tmp_path):
    pytest.importorskip("sklearn", reason="sprites need scikit-learn (extra 'arenas')")
    made = arenas.make(EnvSpec("terrella/SpritesMicro-v0"))
    spec = arenas.describe(made)
    made.close()
    write_preview(world(spec), tmp_path / "p.webp", frames=6)
    shown = Image.open(tmp_path / "p.webp")
    assert shown.size == (3 * 160 + 8, 160 + 14)
    map_of = [np.asarray(shown.convert("RGB"))[14:, 328:] for i in range(6) if shown.seek(i) is None]
    assert any(np.abs(a.astype(int) - map_of[0]).max() > 40 for a in map_of[1:])


def test_fitting_repeats_and_leaves_out_whole_pixels():
    image = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    assert np.array_equal(film.fitted(image, 8), image.repeat(2, 1).repeat(2, 2))
    assert np.array_equal(film.fitted(image, 2), image[:, ::2, ::2])
    assert film.fitted(image, 10).shape == (2, 10, 15, 3)
