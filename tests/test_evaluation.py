"""The instrument is tested before any world: known errors, references whose score is known, pages that parse."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from terrella import actions as codec
from terrella.arenas import describe, forkable, make, to_streams
from terrella.data import Scripted, record
from terrella.engine import Engine
from terrella.errors import ConfigError, SpecError
from terrella.evaluation import evaluate, events, film, measure, metrics, render, stats, truth, write_preview
from terrella.evaluation.endurance import nearest, thumbnails
from terrella.evaluation.summary import summarise
from terrella.spec import EnvSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import World

IMAGE = StreamSpec("image", (16, 20, 3))
VECTOR = StreamSpec("vector", (2,))


# -- frames ------------------------------------------------------------------------------------------------------------


def test_mse_and_psnr_of_known_images():
    black = np.zeros((2, 16, 20, 3), np.uint8)
    grey = np.full_like(black, 51)  # 0.2
    assert metrics.frame_mse(grey, black, IMAGE) == pytest.approx([0.04, 0.04])
    assert metrics.psnr(0.04) == pytest.approx(13.9794, abs=1e-4)
    assert metrics.psnr(0.0) == math.inf
    half = black.copy()
    half[0, :8] = 255
    assert metrics.frame_mse(half, black, IMAGE) == pytest.approx([0.5, 0.0])


def test_vector_error_counts_in_standard_deviations_and_nan_is_wrong():
    guess, true = np.array([[1.0, 10.0], [np.nan, 0.0]], np.float32), np.zeros((2, 2), np.float32)
    raw = metrics.frame_mse(guess, true, VECTOR)
    assert raw[0] == pytest.approx((1 + 100) / 2)
    assert metrics.frame_mse(guess, true, VECTOR, np.array([1.0, 10.0]))[0] == pytest.approx(1.0)
    assert raw[1] == math.inf


def test_frames_of_another_shape_are_refused():
    with pytest.raises(SpecError, match="16, 20"):
        metrics.frame_mse(np.zeros((1, 20, 16, 3), np.uint8), np.zeros((1, 20, 16, 3), np.uint8), IMAGE)


def test_ssim_knows_its_ends():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    assert metrics.ssim(picture, picture) == pytest.approx(1.0, abs=1e-12)
    assert np.abs(metrics.ssim(picture, rng.permutation(picture.ravel()).reshape(picture.shape))).max() < 0.1
    assert metrics.ssim(picture, 255 - picture).max() < -0.9
    flat = [np.full((12, 12, 1), v, np.uint8) for v in (51, 102)]  # only the luminance term is left
    assert metrics.ssim(*flat) == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4))
    noisy = [np.clip(picture + rng.normal(0, s, picture.shape), 0, 255).astype(np.uint8) for s in (5, 20, 60)]
    falling = [metrics.ssim(n, picture).mean() for n in noisy]
    assert falling == sorted(falling, reverse=True)
    assert metrics.ssim(picture[None], picture[None]).shape == (1, 3)
    assert metrics.ssim(picture, noisy[1]) == pytest.approx(metrics.ssim(noisy[1], picture))


def test_ssim_equals_the_formula_written_out():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (2, 11, 11, 1), dtype=np.uint8)
    offsets = np.arange(11) - 5
    w = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    a, b = x[..., 0] / 255.0, y[..., 0] / 255.0
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
    c1, c2 = 1e-4, 9e-4
    expected = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert metrics.ssim(x, y) == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(metrics.ssim(x[:5, :4], y[:5, :4]))  # smaller than the window


def test_skill_and_its_half():
    skills = metrics.skill(np.array([0.1, 0.2, 0.6]), np.array([0.1, 0.1, 0.1]), 0.6)
    assert skills == pytest.approx([1.0, 0.8, 0.0])
    assert metrics.half_skill_horizon(np.array([1, 2, 4]), skills) == 4
    assert metrics.half_skill_horizon(np.array([1, 2]), skills[:2]) is None
    assert np.isnan(metrics.skill(np.array([0.1]), np.array([0.6]), 0.6)[0])


def test_motion_and_spread():
    frames = np.zeros((1, 3, 16, 20, 3), np.uint8)
    frames[:, 1] = 255
    assert metrics.motion(frames, IMAGE) == pytest.approx(np.array([[1.0, 1.0]]))
    assert metrics.frame_std(frames, IMAGE).max() == 0
    assert metrics.motion(np.array([[0.0, 0.0], [2.0, 10.0]]), VECTOR, np.array([1.0, 10.0])) == pytest.approx([1.5])


# -- statistics --------------------------------------------------------------------------------------------------------


def test_bootstrap_covers_and_keeps_groups_together():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        mean, low, high = stats.bootstrap(rng.normal(3.0, 1.0, (30, 1)), seed=trial, draws=400)
        inside += bool(low[0] <= 3.0 <= high[0])
        assert low[0] <= mean[0] <= high[0]
    assert 175 <= inside <= 199
    values = np.repeat(rng.normal(size=(10, 1)), 20, axis=0)  # twenty copies add no knowledge
    _, low, high = stats.bootstrap(values, groups=np.repeat(np.arange(10), 20))
    _, naive_low, naive_high = stats.bootstrap(values)
    assert (high - low)[0] > 2 * (naive_high - naive_low)[0]


def test_bootstrap_of_a_ratio_and_of_missing_values():
    top, bottom = np.array([[2.0, np.nan], [4.0, np.nan]]), np.array([[1.0, 1.0], [2.0, 1.0]])
    mean, low, high = stats.bootstrap(top, bottom)
    assert (mean[0], low[0], high[0]) == (2.0, 2.0, 2.0)
    assert np.isnan(mean[1])
    assert np.isnan(low[1])


def test_wilson_matches_the_published_case():
    assert stats.wilson(49, 50) == pytest.approx((0.895, 0.996), abs=1e-3)
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(0, 10)[0] == 0.0


def test_auroc_and_detection_by_hand():
    assert stats.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == pytest.approx(0.75)
    assert stats.auroc(np.ones(6), np.array([0, 1, 0, 1, 1, 0])) == 0.5
    assert math.isnan(stats.auroc(np.ones(2), np.ones(2)))
    found = stats.detection(np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1]))
    assert (found["precision"], found["recall"], found["specificity"]) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    assert found["balanced_accuracy"] == pytest.approx(7 / 12)
    assert stats.detection(np.zeros(3), np.zeros(3))["recall"] is None


def test_derangements_have_no_fixed_point_and_are_all_found():
    rng = np.random.default_rng(0)
    found = {tuple(stats.derangement(4, rng)) for _ in range(400)}
    assert len(found) == 9
    assert all(i != j for order in found for i, j in enumerate(order))
    with pytest.raises(ConfigError):
        stats.derangement(1, rng)


def test_event_scores():
    rewards = np.array([0, 0, 1, 0, 0, 1], np.float32)
    ends = rewards > 0
    perfect = events.score(events.Guesses(rewards, rewards, ends, ends.astype(np.float32)))
    assert perfect["reward"]["mse"] == 0
    assert perfect["reward"]["detection"]["balanced_accuracy"] == 1.0
    assert perfect["termination"]["auroc"] == 1.0
    blind = events.score(events.Guesses(rewards, np.full(6, rewards.mean()), ends, np.zeros(6)))
    assert blind["reward"]["mse"] == pytest.approx(blind["reward"]["mse_of_mean"])
    assert blind["reward"]["correlation"] is None
    assert blind["termination"]["auroc"] == 0.5
    assert blind["termination"]["recall"] == 0.0


def test_nearest_frames_by_hand():
    bank = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    assert nearest(np.array([[0.0, 0.0], [3.0, 2.0]], np.float32), bank) == pytest.approx([0.0, math.sqrt(2)])
    picture = np.full((1, 33, 47, 3), 51, np.uint8)
    assert thumbnails(picture, StreamSpec("image", (33, 47, 3)), None) == pytest.approx(np.full((1, 3072), 0.2))


# -- truth -------------------------------------------------------------------------------------------------------------


def collect(env_id: str, n: int = 6, context: int = 4, frames: int = 24, **kwargs) -> tuple[WorldSpec, truth.Truth]:
    env = make(EnvSpec(env_id, **kwargs))
    spec = describe(env)
    made = truth.from_environment(env, spec, sizes=[n], context=context, frames=frames, marks=[1, 8, frames], seed=3)
    return spec, next(made)


def test_futures_begin_at_random_moments_of_the_lead():
    env = make("procgen/coinrun")
    spec = describe(env)
    options = {"sizes": [6], "context": 4, "frames": 8, "marks": [1, 8], "seed": 3}
    reset, later = (next(truth.from_environment(env, spec, lead=lead, **options)) for lead in (0, 60))
    assert reset.seeds == later.seeds
    assert not np.array_equal(reset.observations["pixels"][:, 0], later.observations["pixels"][:, 0])
    twin = later.twin
    assert twin is not None  # the fork of a later moment is that moment
    assert np.array_equal(twin["pixels"][:, 0], later.frame("pixels", 1))
    copied = [np.array_equal(*pair) for pair in zip(later.frame("pixels", 0), later.frame("pixels", 8))]
    assert not all(copied)


def test_a_policy_that_looks_decides_the_actions_and_its_episodes_are_replayed():
    env = make("CartPole-v1")
    spec = describe(env)

    def upright(observation, rng):
        return int(observation[2] > 0)

    options = {"sizes": [4], "context": 4, "frames": 30, "marks": [30], "seed": 3, "lead": 20}
    blind = next(truth.from_environment(env, spec, **options))
    found = next(truth.from_environment(env, spec, **options, policy=Scripted(upright)))
    assert found.length.mean() > blind.length.mean()
    for row in range(len(found)):
        seen = found.real_frames("vector", row)[:-1, 2]
        assert np.array_equal(found.actions[row, : len(seen), 0], seen > 0)


def test_truth_is_what_the_environment_does():
    spec, found = collect("CartPole-v1")
    assert len(set(found.seeds)) == len(found)
    env = make(spec.env)
    for row in range(len(found)):
        first, _ = env.reset(seed=found.seeds[row])
        frames, over = [to_streams(env, first)["vector"]], False
        for action in found.actions[row]:
            observation, _, over, _, _ = env.step(codec.decode(spec.action, action.astype(np.float64)))
            frames.append(to_streams(env, observation)["vector"])
            if over:
                break
        assert np.array_equal(found.real_frames("vector", row), np.stack(frames))
        length = int(found.length[row])
        assert length == len(frames) - 1 - found.context
        assert found.terminated[row, :length].tolist() == [False] * (length - 1) + [over]
        assert not found.observations["vector"][row, found.context + 1 + length :].any()


def test_a_twin_differs_only_by_chance():
    _, still = collect("CartPole-v1")
    assert still.twin is not None
    assert still.twin_length is not None
    assert np.array_equal(still.twin_length, still.length)
    for row in range(len(still)):
        if still.length[row] >= 8:
            assert np.array_equal(still.twin["vector"][row, 1], still.frame("vector", 8)[row])
    _, lucky = collect("MiniGrid-Dynamic-Obstacles-6x6-v0", frames=12, pixels=True, size=32)
    assert lucky.twin is not None
    alive = lucky.length >= 8
    assert (lucky.twin["pixels"][alive, 1] != lucky.frame("pixels", 8)[alive]).any()


# -- references whose scores are known ---------------------------------------------------------------------------------


class Frame:
    def __init__(self, observation, reward, terminated):
        self.observation, self.reward, self.terminated = observation, reward, terminated


class CopyLast:
    """Shows the last context frame for ever."""

    def start(self, observations, actions=None, seeds=0):
        return {name: frames[:, -1:] for name, frames in observations.items()}

    def rollout(self, state, actions):
        shape = actions.shape[:2]
        frames = {name: np.repeat(last, shape[1], axis=1) for name, last in state.items()}
        return state, Frame(frames, np.zeros(shape, np.float32), np.zeros(shape, np.float32))


class Blind:
    """Noise keyed by the session's seed and the frame's number; never looks at an action."""

    def start(self, observations, actions=None, seeds=0):
        return ({name: frames[:, -1] for name, frames in observations.items()}, list(seeds), 0)

    def rollout(self, state, actions):
        last, seeds, time = state
        shape = actions.shape[:2]
        frames = {}
        for name, image in last.items():
            noise = [
                [np.random.default_rng([s, time + t]).random(image.shape[1:]) for t in range(shape[1])] for s in seeds
            ]
            frames[name] = (np.stack(noise) * (255 if image.dtype == np.uint8 else 1)).astype(image.dtype)
        return (last, seeds, time + shape[1]), Frame(frames, np.zeros(shape, np.float32), np.zeros(shape, np.float32))


class Oracle:
    """The simulator itself behind the engine's methods: it replays the context from the session's seed.

    A context from the middle of an episode cannot be replayed; then the simulator is set to the state it shows, which
    CartPole's observation is (in single precision).
    """

    def __init__(self, spec: WorldSpec, noise: float = 0.0):
        self.spec, self.noise, self.rng = spec, noise, np.random.default_rng(0)

    def start(self, observations, actions=None, seeds=0):
        return [self._begin({k: v[i] for k, v in observations.items()}, actions[i], s) for i, s in enumerate(seeds)]

    def _begin(self, context, actions, seed):
        env = make(self.spec.env)
        streams = to_streams(env, env.reset(seed=int(seed))[0])
        if all(np.array_equal(streams[k], context[k][0]) for k in streams):
            for action in actions:
                streams = to_streams(env, env.step(codec.decode(self.spec.action, action.astype(np.float64)))[0])
        elif "vector" in context:
            streams = {"vector": context["vector"][-1]}
            env.unwrapped.state = context["vector"][-1].astype(np.float64)
        return [env, streams, False]

    def rollout(self, state, actions):
        shape = actions.shape[:2]
        rewards, ends = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        frames = {k: np.zeros((*shape, *s.shape), state[0][1][k].dtype) for k, s in self.spec.modelled.items()}
        for i, session in enumerate(state):
            for t, action in enumerate(actions[i]):
                if not session[2]:
                    native = codec.decode(self.spec.action, action.astype(np.float64))
                    observation, reward, terminated, truncated, _ = session[0].step(native)
                    session[1], session[2] = to_streams(session[0], observation), terminated or truncated
                    rewards[i, t], ends[i, t] = reward, terminated
                for name in frames:
                    frames[name][i, t] = session[1][name]
        for name, stream in self.spec.modelled.items():
            if self.noise and stream.kind == "vector":
                frames[name] = frames[name] + self.rng.normal(0, self.noise, frames[name].shape).astype(np.float32)
        return state, Frame(frames, rewards, ends)


@pytest.fixture(scope="module")
def cartpole() -> WorldSpec:
    return describe(make("CartPole-v1"))


@pytest.fixture(scope="module")
def coinrun() -> WorldSpec:
    return describe(make("procgen/coinrun"))


# The oracle finds its episode by the seed, from the reset on.
QUICK = {"episodes": 8, "horizons": (1, 2, 4, 8, 16), "long": 48, "lead": 0, "speed": False, "progress": False}


def test_the_simulator_itself_makes_no_error(cartpole, coinrun):
    report = measure(Oracle(cartpole), cartpole, name="oracle", **QUICK)
    table = report["streams"]["vector"]
    assert table["n"][0] == 8
    assert table["n"] == sorted(table["n"], reverse=True)  # episodes that have ended are not counted
    reached = [e for e in table["mse"]["mean"] if e is not None]
    assert len(reached) == sum(n > 0 for n in table["n"]) >= 3
    assert reached == pytest.approx([0.0] * len(reached), abs=1e-10)
    assert table["skill"][0] == pytest.approx(1.0)
    assert table["shuffled"]["mean"][2] > 0.01
    end = report["events"]["one_step"]["termination"]
    assert end["positives"] > 0
    assert (end["recall"], end["specificity"], end["auroc"]) == (1.0, 1.0, 1.0)

    report = measure(Oracle(coinrun), coinrun, name="oracle", **QUICK)
    table = report["streams"]["pixels"]
    assert table["mse"]["mean"] == [0.0] * 5
    assert table["ssim"]["mean"] == pytest.approx([1.0] * 5)
    assert table["psnr"] == [None] * 5
    assert table["action_ratio"]["mean"] == [None] * 5  # over an error of 0
    assert table["shuffled"]["mean"][4] > 0
    assert table["half_skill_horizon"] is None
    for ratio in ("motion", "spread", "strangeness"):  # before the first of the episodes ends
        assert report["long"]["pixels"][ratio]["curve"][:1] == pytest.approx([1.0])
    for life in (report["long"]["pixels"][ratio] for ratio in ("motion", "spread", "strangeness")):
        assert np.mean(life["sessions"]) == pytest.approx(life["last_quarter"])
        assert len(life["true_sessions"]) == len(life["sessions"]) == report["long"]["pixels"]["sessions"]


def test_copy_last_scores_copy_last_and_follows_no_action(cartpole, coinrun):
    for spec in (cartpole, coinrun):
        report = measure(CopyLast(), spec, name="still", **QUICK)
        (table,) = report["streams"].values()
        assert table["mse"]["mean"] == table["copy_last"]["mean"]
        assert {r for r in table["action_ratio"]["mean"] if r is not None} == {1.0}
        assert {r for r in table["against_copy_last"]["mean"] if r is not None} == {1.0}
        (life,) = report["long"].values()
        assert life["motion"]["last_quarter"] == 0.0
        text = " ".join(report["summary"]["warnings"])
        assert "freezes" in text
        assert "ignores its actions" in text
        assert "no horizon clearly better" in text


def test_a_blind_world_has_action_ratio_one_and_its_noise_shows(coinrun):
    report = measure(Blind(), coinrun, name="blind", **QUICK)
    table = report["streams"]["pixels"]
    assert table["action_ratio"]["mean"] == [1.0] * 5
    assert max(table["skill"]) < 0.5
    assert table["half_skill_horizon"] == 1
    life = report["long"]["pixels"]
    assert life["motion"]["last_quarter"] > 4
    assert life["strangeness"]["last_quarter"] > 1
    assert any("flickers" in line for line in report["summary"]["warnings"])


def test_a_noisy_simulator_errs_by_its_noise(cartpole):
    options = {**QUICK, "episodes": 64, "long": 0}
    report = measure(Oracle(cartpole, noise=0.2), cartpole, name="noisy", **options)
    table = report["streams"]["vector"]
    assert np.mean(table["mse_unscaled"]["mean"][:3]) == pytest.approx(0.04, rel=0.2)
    intervals = table["mse_unscaled"]["interval"][:3]
    assert sum(low < 0.04 < high for low, high in intervals) >= 2
    assert max(high - low for low, high in intervals) < 0.03
    assert report["long"] is None


class Stranger(Oracle):
    """Real frames of an unrelated episode with actions of its own."""

    def _begin(self, context, actions, seed):
        env = make(self.spec.env)
        return [env, to_streams(env, env.reset(seed=int(seed) + 1)[0]), False]

    def rollout(self, state, actions):
        held = self.rng.integers(0, self.spec.action.n, (len(actions), actions.shape[1] // 4 + 1, 1))
        return super().rollout(state, held.repeat(4, axis=1)[:, : actions.shape[1]].astype(np.float32))


def test_frames_of_other_episodes_have_no_skill_and_are_not_strange(coinrun):
    report = measure(Stranger(coinrun), coinrun, name="stranger", **{**QUICK, "episodes": 24})
    table = report["streams"]["pixels"]
    assert table["mse"]["mean"] == pytest.approx(table["other_episode"]["mean"], rel=0.6)
    assert np.mean(table["mse"]["mean"]) == pytest.approx(np.mean(table["other_episode"]["mean"]), rel=0.3)
    life = report["long"]["pixels"]
    assert 0.5 < life["strangeness"]["last_quarter"] < 1.6
    assert 0.5 < life["spread"]["last_quarter"] < 1.6


class Reseeded(Oracle):
    """The simulator from the right state, with chance of its own: as good as any world can be."""

    def _begin(self, context, actions, seed):
        session = super()._begin(context, actions, seed)
        fork = forkable(session[0])
        assert fork is not None
        fork.reseed(int(seed) + 1)
        return session


def test_a_perfect_world_of_chance_reaches_the_floor_not_zero():
    spec = describe(make(EnvSpec("MiniGrid-Dynamic-Obstacles-6x6-v0", pixels=True, size=32)))
    options = {**QUICK, "episodes": 24, "horizons": (2, 4, 6), "context": 2}
    table = measure(Reseeded(spec), spec, name="reseeded", **options)["streams"]["pixels"]
    assert table["floor"]["measured"]
    assert min(table["floor"]["mean"]) > 0
    assert min(table["mse"]["mean"]) > 0
    assert table["skill"] == pytest.approx([1.0] * 3, abs=0.4)
    assert np.mean(table["copy_last_skill"]) < np.mean(table["skill"])


def test_measuring_twice_gives_the_same_numbers(coinrun):
    first, second = (measure(CopyLast(), coinrun, name="still", **QUICK) for _ in range(2))
    other = measure(CopyLast(), coinrun, name="still", **QUICK, seed=1)
    assert first["streams"] == second["streams"]
    assert first["episode_seeds"] == second["episode_seeds"]
    assert not set(first["episode_seeds"]) & set(other["episode_seeds"])


def test_a_foreign_environment_and_bad_numbers_are_refused(cartpole):
    with pytest.raises(SpecError, match="does not fit"):
        measure(CopyLast(), cartpole, "Acrobot-v1", name="still", **QUICK)
    with pytest.raises(ConfigError, match="horizons"):
        measure(CopyLast(), cartpole, name="still", horizons=(0, 1))
    nowhere = WorldSpec(cartpole.streams, cartpole.action)
    with pytest.raises(SpecError, match="dataset"):
        measure(CopyLast(), nowhere, name="still", **QUICK)


# -- pages -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that tags nest and remembers what the page refers to."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.images, self.outside, self.counts = [], [], [], {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attributes)
        if tag == "img":
            self.images.append(values["src"])
        for key in ("src", "href"):
            if values.get(key, "#")[:5] not in ("data:",) and not values.get(key, "#").startswith("#"):
                self.outside.append(values[key])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert page.outside == []
    assert page.counts.get("script", 0) == 0
    return page


def test_a_report_is_one_page_with_films_and_plots(coinrun, tmp_path):
    report = measure(CopyLast(), coinrun, name='<b>"still"', out=tmp_path, **QUICK)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    html = (tmp_path / "report.html").read_text()
    page = parse(html)
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "prefers-color-scheme" in html or "color-scheme: light dark" in html
    assert page.counts["svg"] == 4  # error, SSIM, actions, long rollout
    films = [Image.open(io.BytesIO(base64.b64decode(s.split(",", 1)[1]))) for s in page.images]
    assert sum(f.format == "WEBP" and f.n_frames > 8 for f in films) == 4
    assert sum(f.format == "PNG" for f in films) == 4
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", "report.html"}


def test_a_vector_report_draws_trajectories(cartpole, tmp_path):
    report = measure(CopyLast(), cartpole, name="still", out=tmp_path, **QUICK)
    page = parse((tmp_path / "report.html").read_text())
    assert page.counts["svg"] == 3 + 4
    assert page.images == []
    assert "ssim" not in report["streams"]["vector"]


def test_a_page_of_numbers_alone(coinrun):
    report = measure(CopyLast(), coinrun, name="still", **QUICK)
    page = parse(render(json.loads(json.dumps(report))))
    assert page.images == []
    empty = json.loads(json.dumps(report))
    for value in empty["streams"]["pixels"].values():
        if isinstance(value, dict) and "interval" in value:
            value |= {"mean": [None] * 5, "interval": [[None, None]] * 5}
    empty["streams"]["pixels"] |= {"n": [0] * 5, "skill": [None] * 5, "psnr": [None] * 5, "ceiling": None}
    empty["summary"] = summarise(empty)
    parse(render(empty))
    assert any("nothing was compared" in line for line in empty["summary"]["warnings"])


def test_panels_keep_the_truth_on_the_left_and_grey_after_its_end():
    true, dream = np.full((2, 4, 6, 1), 10, np.uint8), np.full((3, 4, 6, 1), 30, np.uint8)
    laid = film.panels(true, dream)
    assert laid.shape == (3, 4, 22, 3)
    assert laid[0, 0, 0].tolist() == [10] * 3
    assert laid[0, 0, 10].tolist() == [30] * 3
    assert laid[0, 0, 20].tolist() == [20] * 3
    assert laid[2, 0, 0].tolist() == laid[2, 0, 20].tolist() == [128] * 3
    moving = Image.open(io.BytesIO(film.animation(laid, 15)))
    assert moving.n_frames in (2, 3)  # equal frames may be joined
    assert np.abs(np.asarray(moving.convert("RGB")).astype(int) - laid[0]).mean() < 8


def test_an_episode_shorter_than_a_horizon_is_left_blank_in_the_strip():
    frame = np.zeros((16, 20, 3), np.uint8)
    strip = film.filmstrip([{1: frame}, {1: frame, 32: frame}], [1, 32])
    alpha = np.asarray(Image.open(io.BytesIO(strip)))[..., 3]
    assert alpha[40, 20] == 255
    assert alpha[40, 110] == 0


# -- a real world ------------------------------------------------------------------------------------------------------


def untrained(spec: WorldSpec) -> World:
    torch.manual_seed(0)
    return World(spec, world_config("debug", spec), "untrained").eval()


def test_a_real_world_is_measured_saved_and_previewed(coinrun, tmp_path):
    world = untrained(coinrun)
    world.save(tmp_path / "world")
    options = {"episodes": 4, "horizons": (1, 4, 8), "long": 24, "context": 2, "progress": False}
    report = evaluate(tmp_path / "world", out=tmp_path / "page", **options)
    table = report["streams"]["pixels"]
    assert table["n"] == [4, 4, 4]
    assert all(0 < e < 1 for e in table["mse"]["mean"])
    assert max(table["skill"]) < 0.9
    assert [row["sessions"] for row in report["speed"]] == [1, 8]
    assert all(row["frames_per_second"] > 0 for row in report["speed"])
    assert report["hardware"]["cores"] >= 1
    page = parse((tmp_path / "page" / "report.html").read_text())
    assert len(page.images) == 8
    again = measure(Engine(world), coinrun, "procgen/coinrun", name="again", speed=False, **options)
    assert again["streams"] == report["streams"]

    path = write_preview(world, tmp_path / "world", frames=30)
    assert path == tmp_path / "world" / "preview.webp"
    moving = Image.open(path)
    assert moving.n_frames >= 20
    assert moving.size == (2 * 128 + 4, 128 + 14)


def test_a_dataset_stands_in_for_an_environment_that_nobody_can_make(cartpole, tmp_path):
    dataset = record("CartPole-v1", tmp_path / "data", episodes=12, progress=False)
    unknown = WorldSpec(cartpole.streams, cartpole.action)
    world = untrained(unknown)
    options = {"episodes": 6, "horizons": (1, 2, 4), "long": 20, "context": 3, "progress": False}
    report = evaluate(world, dataset=tmp_path / "data", **options)
    held = [int(i) for i in dataset.split("held_out") if dataset.lengths[i] > 3]
    assert report["source"] == "dataset"
    assert report["n_groups"] == min(6, len(held))
    assert not report["streams"]["vector"]["floor"]["measured"]
    assert report["streams"]["vector"]["n"][0] == 6
    found = next(truth.from_dataset(dataset, unknown, sizes=[6], context=3, frames=20, seed=0))
    for row in range(6):
        episode = dataset.episode(int(found.groups[row]))
        real, length = found.real_frames("vector", row), int(found.length[row])
        matches = [t for t in range(len(episode)) if np.array_equal(episode.observations["vector"][t], real[0])]
        (at,) = matches
        assert np.array_equal(episode.observations["vector"][at : at + len(real)], real)
        assert np.array_equal(episode.actions[at : at + 3 + length], found.actions[row, : 3 + length])
        assert np.array_equal(episode.terminated[at + 3 : at + 3 + length], found.terminated[row, :length])
    assert found.groups[: len(held)].tolist() == held[:6]
    write_preview(world, tmp_path / "p.webp", dataset=dataset, frames=20)
    assert Image.open(tmp_path / "p.webp").size == (2 * 160 + 4, 160 + 14)


def test_figures_have_no_fixed_ink(coinrun):
    html = render(measure(CopyLast(), coinrun, name="still", **QUICK))
    assert "currentColor" in html
    assert not re.search(r"#010203|fill: ?#000000|stroke: ?#000000", html)
    assert forkable(make("procgen/coinrun")) is not None
