"""Bounded memories: what a store reads, what each policy keeps, and that states with them are values like any other."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from terrella import Memory, check, cite
from terrella.check import example_world, examples
from terrella.config import from_json, to_json
from terrella.dynamics import Dynamics, Hybrid, HybridConfig, Transformer, TransformerConfig
from terrella.engine import Engine, State
from terrella.engine.memory import with_memory
from terrella.engine.precision import copied
from terrella.errors import ConfigError, StateError, UnknownName
from terrella.laws import shaken
from terrella.nn.kv_episodes import enter
from terrella.nn.kv_policies import POLICIES, View
from terrella.nn.kv_store import SlotPast, SlotStore, pack
from terrella.nn.latents import Noise, TokenSpec
from terrella.nn.slabs import Slabs, StateSpec
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.world import Part, World, WorldConfig

TOKENS = TokenSpec(2, 3, ((0.0, 0.0), (0.0, 1.0)))
ACTION = ActionSpec("discrete", n=3)
SMALL = {"dim": 16, "heads": 2, "layers": 3, "every": 2, "window": 6, "sinks": 1}
NAMES = sorted(POLICIES)


# what a network with a memory says


def backbone(memory: Memory | None = None, **settings) -> Dynamics:
    torch.manual_seed(0)
    config = TransformerConfig(**{**SMALL, **settings}, memory=memory)
    return shaken(Transformer(config, TOKENS, ACTION), torch.float64)


def play(part: Dynamics, frames: int, batch: int = 2, still: int = 1) -> tuple[Tensor, Slabs]:
    """Commit random frames, each `still` times; return what was predicted before each, and its reward, `(B, T, 7)`."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(2, batch, frames, 2, 3, generator=source, dtype=torch.float64)[:, :, torch.arange(frames) // still]
    action = torch.randint(3, (batch, frames, 1), generator=source).float()
    slabs, said = part.init(batch, dtype=torch.float64), []
    for t in range(frames):
        row = action[:, t]
        expected = part.predict(slabs, row, z[0, :, t], Noise(torch.zeros(batch), torch.ones(batch)))
        slabs, outcome = part.commit(slabs, row, z[1, :, t], torch.ones(batch))
        said.append(torch.cat([expected.flatten(1), outcome.reward[:, None]], 1))
    return torch.stack(said, 1), slabs


@pytest.mark.parametrize("sizes", [{"layers": 2, "every": 1}, {"layers": 1, "heads": 1, "sinks": 2}])
@pytest.mark.parametrize("name", NAMES)
def test_a_memory_that_need_not_forget_equals_the_plain_ring(name, sizes):
    part = backbone(Memory(name), **sizes)
    held = part.agrees or 16
    assert (part.agrees is None) == (name == "window")
    plain, _ = play(backbone(**sizes), held)
    said, _ = play(part, held)
    assert float((said - plain).abs().max()) < 1e-8


@pytest.mark.parametrize("frames", [3, 6])
def test_the_window_is_the_plain_ring_of_as_many_frames(frames):
    plain, _ = play(backbone(window=frames), 30)
    part = backbone(Memory("window", frames), window=frames)
    assert part.agrees is None
    assert float((play(part, 30)[0] - plain).abs().max()) < 1e-8


def test_policies_differ():
    said = {name: play(backbone(Memory(name, 6), layers=1, window=12), 20, still=3)[0][:, -4:] for name in NAMES}
    for one, other in ((a, b) for a in NAMES for b in NAMES if a < b):
        assert float((said[one] - said[other]).abs().max()) > 1e-6, (one, other)


@pytest.mark.parametrize("name", ["cake", "razor"])
def test_backbones_with_a_memory_keep_the_laws(name):
    settings = {"dim": 8, "heads": 2, "layers": 1, "window": 4, "memory": {"policy": name, "frames": 3}}
    for part in examples("dynamics", "transformer", settings):
        for law in check.LAWS["dynamics"]:
            law(part, torch.float64)


def test_a_law_still_holds_paths_together_where_a_memory_agrees():
    (part,) = examples("dynamics", "transformer", {**SMALL, "memory": {"policy": "ladder"}})
    check.laws.streaming_equals_parallel(part)
    part.agrees += 1
    with pytest.raises(check.laws.CheckFailed, match="streamed and parallel"):
        check.laws.streaming_equals_parallel(part)


def test_hybrids_can_have_a_memory():
    config = HybridConfig(**{**SMALL, "layers": 1}, scan_heads=2, state=4)
    torch.manual_seed(0)
    plain = shaken(Hybrid(config, TOKENS, ACTION), torch.float64)
    bounded = Hybrid(replace(config, memory=Memory("snapkv", 4)), TOKENS, ACTION).double()
    bounded.load_state_dict(plain.state_dict())
    bounded.requires_grad_(False)
    (one, _), (other, slabs) = play(plain, 20), play(bounded, 20)
    assert float((one - other)[:, : bounded.agrees].abs().max()) < 1e-8
    assert float((one - other)[:, bounded.agrees :].abs().max()) > 1e-6
    assert slabs.nbytes == play(bounded, 5)[1].nbytes


# the store by itself


class Stream:
    """A store of one layer, place and head (unless told otherwise), without rotation, fed by hand."""

    def __init__(self, memory: Memory, heads: int = 1, window: int = 3, sinks: int = 0, dtype=torch.float64):
        self.store = SlotStore(memory, layers=1, places=1, heads=heads, head=4, window=window, sinks=sinks)
        self.slabs = Slabs.empty(StateSpec(self.store.slabs), 1, "cpu", dtype)
        ages = torch.ones(window + 2, 4, dtype=dtype)
        self.ages, self.null = torch.stack([ages, 0 * ages]), torch.zeros(2, heads, 4, dtype=dtype)

    @property
    def past(self) -> SlotPast:
        return self.store.past(self.slabs, 0, self.ages)

    def frame(self, key: Tensor, value: Tensor, query: Tensor | None = None) -> None:
        """Read with the query, if any, and commit. All `(H, d)`."""
        self.read(torch.zeros_like(key) if query is None else query)
        kept = self.store.keep(self.slabs, key[None, None, None], value[None, None, None], [self.past])
        self.slabs = self.slabs.append({}, kept)

    def read(self, query: Tensor) -> Tensor:
        return self.past.read(query[None, None], self.null)[0, 0]

    def __getitem__(self, what: str) -> Tensor:
        return self.slabs.recurrent[f"slot_{what}"][0, 0, 0]

    def held(self, head: int = 0) -> list[float]:
        """The first number of each value that a head holds, from old to new."""
        mine = (self.store.owners(self.slabs.recurrent)[0, 0, 0] == head) & (self["count"] > 0)
        return [float(v) for _, v in sorted(zip(-self["age"][mine], self["values"][mine, 0]))]


def numbered(stream: Stream, frames: int, key: Tensor | None = None) -> None:
    """Frames whose values are their numbers, with equal keys and queries of nothing."""
    shape = stream.null.shape[1:]
    for t in range(frames):
        stream.frame(torch.ones(shape).double() if key is None else key, torch.full(shape, float(t)).double())


def dense(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention over all frames of one head and a null of zeros: `(d)`, `(T, d)`, `(T, d)`."""
    scores = F.pad(keys @ query / query.shape[-1] ** 0.5, (1, 0))
    return scores.softmax(0)[1:] @ values


def test_a_slot_of_equal_keys_equals_all_of_them_by_log_m():
    source = torch.Generator().manual_seed(0)
    same, other, query = (torch.randn(1, 4, generator=source).double() for _ in range(3))
    values = torch.randn(40, 4, generator=source).double()
    stream = Stream(Memory("tempcache", 4), window=40)
    keys = torch.cat([same] * 30 + [other] * 10)
    for key, value in zip(keys, values):
        stream.frame(key[None], value[None])
    assert stream["count"].sum() == 40
    assert int((stream["count"] > 1).sum()) == 2, "one slot for each kind, and the newest"
    expected = dense(query[0], keys, values)
    assert float((stream.read(query)[0] - expected).abs().max()) < 1e-10
    stream.slabs.recurrent["slot_count"].clamp_(max=1)
    stream.slabs.scratch.clear()
    assert float((stream.read(query)[0] - expected).abs().max()) > 1e-2


def test_merging_keeps_the_newest_key_its_age_and_the_mean_value():
    stream = Stream(Memory("tempcache", 3))
    near = [torch.tensor([[1.0, x, 0.0, 0.0]]).double() for x in (0.0, 0.01, 0.02)]
    far = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double()
    for t, key in enumerate([*near, far, -far]):
        stream.frame(key, torch.full((1, 4), float(t)).double())
    order = stream["age"].argsort()
    assert stream["age"][order].tolist() == [1, 2, 3]
    assert stream["count"][order].tolist() == [1.0, 1.0, 3.0]
    assert torch.equal(stream["keys"][order], torch.cat([-far, far, near[2]]))
    assert torch.allclose(stream["values"][order, 0], torch.tensor([4.0, 3.0, 1.0]).double())


def test_what_is_not_alike_is_not_merged():
    stream = Stream(Memory("tempcache", 3))
    for t in range(12):
        stream.frame(torch.eye(4)[t % 4][None].double(), torch.full((1, 4), float(t)).double())
    assert stream.held() == [9.0, 10.0, 11.0]
    assert stream["count"].tolist() == [1.0, 1.0, 1.0]


def test_a_slot_counts_for_no_more_than_the_window():
    stream = Stream(Memory("tempcache", 2, recent=1), window=5)
    numbered(stream, 40)
    assert sorted(stream["count"].tolist()) == [1.0, 5.0]
    merged = stream["values"][stream["age"] == 2, 0]
    assert 30 < float(merged) < 38, "a mean of the last"


def test_the_compensation_slot_stands_for_what_was_dropped():
    source = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 12, 1, 4, generator=source).double()
    stream = Stream(Memory("razor", 4), window=12, sinks=1)
    for key, value in zip(keys, values):
        stream.frame(key, value, key)
    dropped = slice(1, 9)  # all but the sink and the newest three
    assert stream["count"].tolist() == [1.0, 8.0, 1.0, 1.0, 1.0]
    assert torch.allclose(stream["keys"][1], keys[dropped].mean((0, 1)))
    assert torch.allclose(stream["values"][1], values[dropped].mean((0, 1)))
    assert 3 < stream["age"][1] < 12


def test_scores_are_what_dense_attention_says():
    source = torch.Generator().manual_seed(0)
    keys, values, queries = torch.randn(3, 10, 2, 4, generator=source).double()
    stream = Stream(Memory("cake", 12, queries=64), heads=2, sinks=1)
    got = torch.zeros(10, 2, 10)  # query, head, key
    for t in range(10):
        stream.frame(keys[t], values[t], queries[t])
        if t:
            scores = F.pad(torch.einsum("hd,thd->ht", queries[t], keys[:t]) / 2, (1, 0))
            got[t, :, :t] = scores.softmax(-1)[:, 1:].float()
    stream.read(queries[0])
    shares = stream.past.weights.sum(-2)[0, 0]
    owner = stream.store.owners(stream.slabs.recurrent)[0, 0, 0]
    whole = torch.einsum("hd,thd->ht", queries[0], keys) / 2
    for h in range(2):
        null = float(F.pad(whole[h], (1, 0)).softmax(0)[0])
        assert float(shares[owner == h].sum()) + null == pytest.approx(1, abs=1e-12)
        for slot in (owner == h).nonzero().flatten().tolist():
            if stream["count"][slot] == 0:
                continue
            t = 10 - int(stream["age"][slot])
            seen = got[t + 1 :, h, t]  # by the frames after it
            assert float(stream["mean"][slot]) == pytest.approx(float(seen.mean()) if t < 9 else 0.0, abs=1e-6)
            assert float(stream["square"][slot]) == pytest.approx(float(seen.square().mean()) if t < 9 else 0, abs=1e-6)


def planted(name: str, query: list[float]) -> bool:
    """Whether a frame of key `(8, 0, 0, 0)` is still there when 36 frames have looked for it, or elsewhere."""
    stream, source = Stream(Memory(name, 6, recent=2)), torch.Generator().manual_seed(0)
    key, look = torch.tensor([[8.0, 0.0, 0.0, 0.0]]).double(), torch.tensor([query]).double()
    for t in range(40):
        other = 0.1 * torch.randn(1, 4, generator=source).double()
        stream.frame(key if t == 3 else other, torch.full((1, 4), float(t)).double(), look)
    return 3.0 in stream.held()


@pytest.mark.parametrize("name", ["snapkv", "cake", "maskkv"])
def test_a_frame_that_is_looked_at_stays(name):
    assert planted(name, [8.0, 0.0, 0.0, 0.0])
    assert not planted(name, [-8.0, 0.0, 0.0, 0.0])


def test_a_window_loses_what_is_looked_at():
    assert not planted("window", [8.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("name", "blind"), [("maskkv", True), ("snapkv", False)])
def test_whose_attention_is_averaged(name, blind, monkeypatch):
    part, seen = backbone(Memory(name, 8), layers=1), []
    read = SlotPast.read
    monkeypatch.setattr(SlotPast, "read", lambda past, q, null: (seen.append(past), read(past, q, null))[1])
    kept = SlotStore.keep

    def keep(store, slabs, keys, values, pasts):
        got = pasts[0].weights.sum(-2).float()
        slots = kept(store, slabs, keys, values, pasts)
        old = slots["slot_age"][:, 0] == 2  # the frame before: this was the first to look at it
        assert torch.allclose(slots["slot_mean"][:, 0][old], got[old])
        return slots

    monkeypatch.setattr(SlotStore, "keep", keep)
    _, slabs = play(part, 6)
    assert len(seen) == 6 * (2 + blind)
    row, z = torch.zeros(2, 1), torch.zeros(2, 2, 3).double()
    part.commit(slabs, row, z, torch.ones(2, dtype=torch.float64))
    last = seen[-1].weights
    part.predict(slabs, row, z, Noise(torch.zeros(2), torch.zeros(2)))  # of nothing known
    assert torch.allclose(last, seen[-1].weights) == blind


def test_what_was_predicted_leaves_no_trace():
    part = backbone(Memory("maskkv", 4), layers=1)
    states = []
    for passes in (0, 3):
        slabs, source = part.init(2, dtype=torch.float64), torch.Generator().manual_seed(0)
        for _ in range(10):
            z, row = torch.randn(2, 2, 3, generator=source).double(), torch.ones(2, 1)
            for i in range(passes):
                part.predict(slabs, row + i % 2, z * i, Noise(torch.zeros(2), torch.ones(2)))
            slabs, _ = part.commit(slabs, row, z, torch.ones(2, dtype=torch.float64))
        states.append(slabs.recurrent)
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_neighbours_of_a_frame_that_is_looked_at_stay_with_it():
    kept = {}
    for name in ("snapkv", "cake"):
        stream = Stream(Memory(name, 8, recent=2))
        key = torch.tensor([[8.0, 0.0, 0.0, 0.0]]).double()
        for t in range(30):
            stream.frame(key if t == 10 else -key, torch.full((1, 4), float(t)).double(), key)
        kept[name] = stream.held()
    assert {9.0, 10.0, 11.0} <= set(kept["snapkv"])
    assert {9.0, 10.0, 11.0} & set(kept["cake"]) == {10.0}


def test_the_window_keeps_the_newest_and_the_sinks():
    stream = Stream(Memory("window", 3), sinks=2)
    numbered(stream, 11)
    assert stream.held() == [0.0, 1.0, 8.0, 9.0, 10.0]


def test_a_ladder_thins_out_geometrically():
    stream = Stream(Memory("ladder", 8), heads=3)
    numbered(stream, 250)
    reach = []
    for head in range(3):
        ages = [250 - v for v in stream.held(head)]
        assert ages[-2:] == [2.0, 1.0]
        gaps = -np.diff(ages)
        assert (np.diff(gaps) <= 0).mean() > 0.6, "gaps grow with age"
        reach.append(ages[0])
    assert reach[0] > reach[1] > reach[2] > 8


def test_episodes_share_the_store():
    stream = Stream(Memory("epicache", 12), window=12)
    scenes = torch.eye(4).double()[:3]
    for t, scene in enumerate([0] * 15 + [1] * 15 + [2] * 15):
        stream.frame(scenes[scene][None] + 0.01 * torch.sin(torch.arange(4) + t), torch.full((1, 4), float(t)).double())
    held = [int(v) // 15 for v in stream.held()]
    assert sorted(set(held)) == [0, 1, 2]
    assert min(held.count(s) for s in range(3)) >= 2
    last = stream.slabs.recurrent["slot_episode"][0, 0, 0][stream["age"] == 1]
    stream.frame(scenes[:1], torch.full((1, 4), 99.0).double())
    now = stream.slabs.recurrent["slot_episode"][0, 0, 0]
    assert now[stream["age"] == 1] != last
    assert now[stream["age"] == 1] == now[stream["values"][:, 0] < 15][0], "it came back"


def test_episodes_merge_the_two_most_alike():
    kinds = torch.eye(4)
    centroids, sizes = torch.zeros(1, 3, 4), torch.zeros(1, 3)
    seen = []
    for i in (0, 1, 2, 1, 3):
        now = enter(centroids, sizes, kinds[i : i + 1] + 0.1 * kinds[:1])
        centroids, sizes = now.centroids, now.sizes
        seen.append((now.current.item(), now.renamed[0].tolist(), sizes[0].tolist()))
    assert [s[0] for s in seen[:4]] == [0, 1, 2, 1]
    assert seen[3] == (1, [0, 1, 2], [1.0, 2.0, 1.0])
    current, renamed, sizes = seen[4]  # none is like kind 3: the nearest pair gives its place
    assert (renamed, current, sizes) == ([0, 0, 2], 1, [3.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["cake", "maskkv", "razor"])
def test_heads_that_need_more_get_more_of_one_budget(name):
    stream = Stream(Memory(name, 8, recent=2), heads=2)
    source = torch.Generator().manual_seed(0)
    for t in range(60):
        key = torch.randn(2, 4, generator=source).double()
        query = 3 * torch.randn(2, 4, generator=source).double()
        if name == "cake":
            query[1] = 0  # its attention is even, and never shifts
        else:
            key[1, 0], query[1, 0] = 4, -8  # it looks at the null alone
        stream.frame(key, torch.full((2, 4), float(t)).double(), query)
    owner = stream.store.owners(stream.slabs.recurrent)[0, 0, 0, stream.store.first :]
    counts = owner.bincount(minlength=2).tolist()
    assert sum(counts) == stream.store.size - stream.store.first
    assert counts[0] >= 1.5 * counts[1] >= 3, counts
    assert all(stream.held(h)[-2:] == [58.0, 59.0] for h in range(2)), "the newest of every head"


def test_frames_are_kept_for_each_head_and_place():
    part = backbone(Memory("snapkv", 6, recent=2), layers=2, every=1)
    _, slabs = play(part, 20)
    age = slabs.recurrent["slot_age"].sort(-1).values
    assert age.shape[1:] == (2, 2, 2 * (6 + 1))
    assert not torch.equal(age[:, 0], age[:, 1])
    assert not torch.equal(age[:, :, 0], age[:, :, 1])


def test_ranks_are_within_a_head_and_of_equals_the_newest_is_first():
    owner = torch.tensor([0, 0, 0, 1, 1, 1, 1])[None, None, None]
    blank = torch.zeros(1, 1, 1, 7)
    view = View(owner, owner, owner >= 0, blank, blank, owner, torch.zeros(1, 1, 1, 2), 1, lambda: blank)
    rank = view.rank(torch.tensor([2.0, 5.0, 2.0, 1.0, 1.0, 7.0, 1.0])[None, None, None])
    assert rank[0, 0, 0].tolist() == [1, 0, 2, 1, 2, 0, 3]


# bytes


def watch_bytes(name: str, frames: int) -> None:
    stream, source = Stream(Memory(name, 4), heads=2, sinks=1), torch.Generator().manual_seed(0)
    budget = StateSpec(stream.store.slabs).nbytes(torch.float64) + 8
    where = {k: v.data_ptr() for k, v in stream.slabs.recurrent.items()}
    for _ in range(frames):
        stream.frame(*torch.randn(3, 2, 4, generator=source).double())
        assert stream.slabs.nbytes == budget
        assert where == {k: v.data_ptr() for k, v in stream.slabs.recurrent.items()}, "in place: no peak at a commit"
    assert len(stream.held(0)) + len(stream.held(1)) == stream.store.size == 2 * (4 + 1)
    assert stream["age"].max() == frames, "the sinks"


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_constant_and_within_the_budget(name):
    watch_bytes(name, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_constant_over_ten_thousand_frames(name):
    watch_bytes(name, 10_000)


def test_a_budget_counts_what_it_says():
    plain, bounded = backbone().spec, backbone(Memory("window", 3)).spec
    per_slot = 2 * 8 * 8 + 10
    rest = 8 * (2 * 3 + 1)  # previous latent and level
    assert bounded.nbytes(torch.float64) == 2 * 2 * (3 + 1) * per_slot + rest
    assert plain.nbytes(torch.float64) == 2 * 2 * (6 + 1) * 2 * 8 * 8 + rest
    small = backbone(Memory("window", 3, dtype="int8")).spec
    assert small.nbytes(torch.float32) == 2 * 2 * (3 + 1) * (2 * 8 + 2 * 4 + 10) + rest // 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_eight_bits_are_half_a_step_off_at_most(dtype):
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 10
    small, scale = pack(x)
    assert small.dtype == torch.int8
    assert bool(((x.double() - small.double() * scale.double()).abs() <= 0.51 * scale.double()).all())
    assert torch.equal(pack(torch.zeros(3, 4))[0], torch.zeros(3, 4, dtype=torch.int8))


def test_eight_bits_change_little():
    plain, _ = play(backbone(), 20)
    part = backbone(Memory("window", dtype="int8"))
    said, slabs = play(part, 20)
    assert slabs.recurrent["slot_keys"].dtype == torch.int8
    assert part.agrees == 1
    assert 1e-6 < float((said - plain).abs().max()) < 0.05 * float(plain.abs().max())


def test_ages_and_counts_go_beyond_what_bfloat16_can_count():
    store = Stream(Memory("tempcache", 2), window=1000, sinks=1, dtype=torch.bfloat16)
    for t in range(300):
        store.frame(torch.ones(1, 4).bfloat16(), torch.ones(1, 4).bfloat16() * (t % 2))
    assert store["age"][0] == 300
    assert store["count"].sum() == 300
    store.slabs.recurrent["slot_age"].fill_(2**30)
    store.frame(torch.ones(1, 4).bfloat16(), torch.ones(1, 4).bfloat16())
    assert store["age"].max() == 2**30


# engines and states

SPEC = WorldSpec({"vector": StreamSpec("vector", (2,))}, ActionSpec("discrete", n=3))


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    config = WorldConfig(Part("transformer", SMALL), Part("shortcut"), {"vector": Part("vector", {"channels": 4})})
    return shaken(World(SPEC, config, "small"), torch.float64)


def begin(engine: Engine, batch: int = 2, seed: int = 0) -> State:
    return engine.start({"vector": np.linspace(-1, 1, 2 * batch).reshape(batch, 1, 2)}, seeds=seed)


def rows(frames: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(3, size=(batch, frames, 1))


@pytest.mark.parametrize("name", NAMES)
def test_states_with_a_memory_are_values(world, name, tmp_path):
    engine = Engine(world, memory=Memory(name, 3), exact=4)
    actions = rows(16)
    end, whole = engine.rollout(begin(engine), actions)
    whole_bytes = end.nbytes
    state, _ = engine.rollout(begin(engine), actions[:, :8])
    branch = state.fork(2)
    engine.rollout(state.fork(1), 2 - actions[:, 8:])
    loaded = engine.load_state(branch.save(tmp_path / "state.safetensors"))
    young = begin(engine).select([1])
    both = State.merge([state.select([0]), young])
    for what, one, kept, taken in (
        ("parent", state, [0, 1], actions[:, 8:]),
        ("branches", branch, [0, 0, 1, 1], actions[:, 8:].repeat(2, 0)),
        ("loaded branches", loaded, [0, 0, 1, 1], actions[:, 8:].repeat(2, 0)),
    ):
        late, frame = engine.rollout(one, taken)
        assert late.nbytes * 2 == whole_bytes * late.batch
        assert np.array_equal(frame.observation["vector"], whole.observation["vector"][kept, 8:]), what
        assert np.array_equal(frame.reward, whole.reward[kept, 8:]), what
    _, frame = engine.rollout(both, np.concatenate([actions[:1, 8:], actions[1:, :8]]))
    assert np.array_equal(frame.observation["vector"][0], whole.observation["vector"][0, 8:]), "the old one"
    assert np.array_equal(frame.observation["vector"][1], whole.observation["vector"][1, :8]), "the young one"


@pytest.mark.parametrize("name", ["snapkv", "maskkv", "tempcache", "razor"])
def test_company_changes_nothing_beyond_rounding(world, name):
    engine = Engine(world, memory=Memory(name, 3))
    actions = rows(14)
    alone = [engine.rollout(begin(engine).select([i]), actions[i : i + 1])[1] for i in range(2)]
    _, both = engine.rollout(begin(engine), actions)
    for i in range(2):
        assert np.allclose(both.observation["vector"][i], alone[i].observation["vector"][0], atol=1e-6)


def test_all_passes_of_a_frame_read_one_history(world):
    engine = Engine(world, memory=Memory("cake", 3))
    state, _ = engine.rollout(begin(engine), rows(9))
    dynamics, slabs = engine.world.dynamics, state.slabs
    before = {k: v.clone() for k, v in slabs.recurrent.items()}
    row, z = torch.ones(2, 1), torch.randn(3, 2, 1, 4).double()
    with torch.inference_mode():
        said = [dynamics.predict(slabs, row, z[i], Noise(torch.zeros(2), torch.ones(2))) for i in (0, 1, 2, 0)]
    assert torch.equal(said[0], said[3])
    assert all(torch.equal(v, slabs.recurrent[k]) for k, v in before.items())


@pytest.mark.parametrize("name", ["maskkv", "razor", "epicache"])
def test_ways_to_step_agree(world, name):
    actions = rows(8)
    plain = Engine(world, memory=Memory(name, 3), fused=False)
    fused = Engine(world, memory=Memory(name, 3), fused=True)
    state, one = plain.rollout(begin(plain), actions)
    _, other = fused.rollout(begin(fused), actions)
    assert np.allclose(one.observation["vector"], other.observation["vector"], atol=1e-6)
    more = rows(3, 2)
    _, alone = plain.rollout(state.fork(1), more)
    _, twins = plain.rollout(state.fork(5), more.repeat(5, 0))  # drawn once, as long as they act alike
    assert np.allclose(alone.observation["vector"].repeat(5, 0), twins.observation["vector"], atol=1e-6)


def test_a_copy_with_a_memory_stays_on_its_device(world):
    moved = copied(copy.deepcopy(world).to("meta"), with_memory(world.config.dynamics, "cake"))
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    assert {p.dtype for p in moved.parameters()} == {torch.float64}


@pytest.mark.parametrize("how", [{"precision": "int8"}, {"cache": "across", "steps": 4}])
def test_a_memory_goes_with_other_settings(world, how):
    engine = Engine(world, memory=Memory("cake", 3), **how)
    _, frame = engine.rollout(begin(engine), rows(8))
    assert np.isfinite(frame.observation["vector"]).all()


def test_an_engine_takes_a_copy_of_its_world(world):
    weights = {k: v.clone() for k, v in world.state_dict().items()}
    engine = Engine(world, memory="snapkv")
    assert engine.world is not world
    assert world.dynamics.memory is None
    assert world.config.dynamics.config == SMALL
    assert engine.world.dynamics.memory == Memory("snapkv", 6, 1, 3)
    assert all(torch.equal(v, weights[k]) for k, v in engine.world.state_dict().items())
    assert engine.world.config.dynamics.config["memory"]["policy"] == "snapkv"
    given = (Memory("snapkv", 6), {"policy": "snapkv", "frames": 6}, "snapkv")
    assert len({Engine(world, memory=m).fingerprint for m in given}) == 1


def test_a_world_with_a_memory_is_saved_and_opened_with_it(world, tmp_path):
    engine = Engine(world, memory=Memory("ladder", 3))
    loaded = Engine(World.load(engine.world.save(tmp_path)), dtype=torch.float64)
    assert loaded.world.dynamics.memory == Memory("ladder", 3, 1, 1)
    frames = [e.rollout(begin(e), rows(10))[1].observation["vector"] for e in (engine, loaded)]
    assert np.allclose(*frames, atol=1e-4)  # files hold float32


def test_a_state_belongs_to_its_memory(world, tmp_path):
    engines = [Engine(world), *(Engine(world, memory=m) for m in ("snapkv", "cake", Memory("snapkv", 3)))]
    assert len({e.fingerprint for e in engines}) == len(engines)
    for one in engines:
        state = begin(one)
        path = state.save(tmp_path / "state.safetensors")
        for other in engines:
            if other is one:
                other.load_state(path)
                continue
            with pytest.raises(StateError, match="another world, precision or memory"):
                other.step(state, np.ones((2, 1)))
            with pytest.raises(StateError, match="another world, precision or memory"):
                other.load_state(path)
            with pytest.raises(StateError, match="different worlds"):
                State.merge([state, begin(other)])


def test_a_damaged_state_is_refused(world, tmp_path):
    engine = Engine(world, memory="tempcache")
    state = begin(engine)
    state.slabs.recurrent["slot_age"] = state.slabs.recurrent["slot_age"].float()
    with pytest.raises(StateError, match="slot_age do not have the shape or type"):
        engine.load_state(state.save(tmp_path / "state.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [None, "int8"])
def test_engines_of_other_types_step(world, dtype, packed):
    plain = Engine(world, dtype=dtype)
    engine = Engine(world, dtype=dtype, memory=Memory("razor", 3, dtype=packed))
    _, frame = engine.rollout(begin(engine), rows(12))
    assert np.isfinite(frame.observation["vector"]).all()
    assert begin(engine).nbytes < begin(plain).nbytes


def test_wrong_memories_are_refused_by_name(world):
    with pytest.raises(UnknownName, match=r"'snapkw'.*'snapkv'"):
        Engine(world, memory="snapkw")
    with pytest.raises(ConfigError, match=r"frame.*'frames'"):
        Engine(world, memory={"policy": "cake", "frame": 3})
    for wrong in ({"frames": 0}, {"sinks": -1}, {"recent": 0}, {"queries": 0}, {"dtype": "int4"}):
        with pytest.raises(ConfigError):
            Memory("cake", **wrong)  # pyright: ignore
    with pytest.raises(ConfigError, match="4 newest by 'razor', which has 3 to choose from"):
        Memory("razor", 4, recent=4).sized(6, 1)
    with pytest.raises(ConfigError, match="history"):
        TransformerConfig(window=4, history=8, memory=Memory("window"))
    parts = Part("ssm", {"dim": 16, "heads": 2, "layers": 1, "scan_heads": 2}), Part("shortcut")
    with pytest.raises(ConfigError, match=r"'ssm' has no memory of frames.*: hybrid, transformer"):
        Engine(example_world(*parts), memory="cake")


@pytest.mark.parametrize("config", [TransformerConfig, HybridConfig])
@pytest.mark.parametrize("memory", [None, Memory("cake", 3, recent=2, dtype="int8")])
def test_settings_survive_json(config, memory):
    before = config(memory=memory)
    assert from_json(config, json.loads(json.dumps(to_json(before)))) == before


@pytest.mark.parametrize("name", NAMES)
def test_papers_are_cited(world, name):
    number = POLICIES[name].source.split("arXiv ")[1][:10]
    assert number in cite(Engine(world, memory=name).world)
    assert (number in cite(world)) == (name == "window")
