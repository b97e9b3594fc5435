"""What is stored comes back bit for bit, or is refused by name: round trips, damage, interruption, sampling."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrella.data import Clips, ClipSampler, Dataset, Episode, import_npz, salvage, store, verify, writer
from terrella.errors import DamagedData, DatasetError, SpecError
from terrella.spec import ActionSpec, EnvSpec, StreamSpec, WorldSpec

SPEC = WorldSpec(
    streams={
        "pixels": StreamSpec("image", (5, 4, 3)),
        "vector": StreamSpec("vector", (2,), (-1.0, -1.0), (1.0, 1.0)),
        "mission": StreamSpec("text"),
    },
    action=ActionSpec("box", shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0), dtype="float64"),
    env=EnvSpec("Somewhere-v0", {"size": [3, 4]}),
    keys={"ArrowLeft": (0.0, 1.0)},
)


def episode(steps: int, seed: int, *, states: bool = False, spec: WorldSpec = SPEC) -> Episode:
    rng = np.random.default_rng(seed)
    observations = {}
    for name, stream in spec.streams.items():
        if stream.kind == "image":
            observations[name] = rng.integers(0, 256, (steps + 1, *stream.shape), np.uint8)
        elif stream.kind == "vector":
            observations[name] = rng.standard_normal((steps + 1, *stream.shape)).astype(np.float32)
        else:
            observations[name] = np.array([f"go to {i} ✓" for i in rng.integers(0, 9, steps + 1)] + [None], object)[:-1]
    ends = np.zeros((2, steps), bool)
    ends[rng.integers(2), -1] = rng.random() < 0.8
    return Episode(
        observations=observations,
        actions=rng.standard_normal((steps, 2)),
        rewards=rng.standard_normal(steps).astype(np.float32),
        terminated=ends[0],
        truncated=ends[1],
        seed=int(rng.integers(2**40)),
        states={int(t): rng.bytes(50) for t in sorted({0, steps // 2, steps})} if states else {},
        info={"level": seed, "name": "ü"},
    )


def write(path: Path, episodes: list[Episode], spec: WorldSpec = SPEC, **options) -> Dataset:
    with Dataset.create(path, spec, **options) as out:
        for e in episodes:
            out.add(e)
    return Dataset(path)


def assert_equal(a: Episode, b: Episode) -> None:
    assert a.observations.keys() == b.observations.keys()
    for name, frames in a.observations.items():
        assert frames.dtype == b.observations[name].dtype
        assert np.array_equal(frames, b.observations[name])
    for name in ("actions", "rewards", "terminated", "truncated"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.seed, a.states, a.info) == (b.seed, b.states, b.info)


LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.sampled_from([15, 16, 17, 255, 256, 257])), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), split=st.integers(0, 5), chunk=st.sampled_from([1, 4, 16]))
def test_episodes_and_clips_come_back_as_they_were(tmp_path_factory, lengths, seed, split, chunk):
    path = tmp_path_factory.mktemp("d")
    episodes = [episode(n, seed + i, states=i % 2 == 0) for i, n in enumerate(lengths)]
    write(path, episodes[:split], chunk_frames=chunk)
    dataset = write(path, episodes[split:])  # appends; the chunking stays as it was
    assert dataset.layout.chunk_frames == chunk
    assert dataset.spec == SPEC or dataset.spec.env.kwargs == {"size": [3, 4]}
    assert len(dataset) == len(lengths)
    assert dataset.steps == sum(lengths)
    for stored, given_ in zip(dataset, episodes, strict=True):
        assert_equal(stored, given_)
    assert np.allclose(dataset.returns, [e.rewards.sum(dtype=np.float64) for e in episodes], atol=1e-4)
    assert verify(path) == []

    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, max(lengths) + 1))
    index, at = dataset.starts(20, length, rng, "all")
    for cached in (dataset, Dataset(path, cache_mb=0, threads=2), dataset):
        assert_clips(cached.clips(index, at, length), episodes, index, at, length)


def assert_clips(clips: Clips, episodes: list[Episode], index: np.ndarray, at: np.ndarray, length: int) -> None:
    assert clips.actions.dtype == np.float32
    for b, (e, t) in enumerate(zip(index, at)):
        source = episodes[e]
        for name, frames in clips.observations.items():
            assert np.array_equal(frames[b], source.observations[name][t : t + length + 1])
        assert np.array_equal(clips.actions[b], source.actions[t : t + length].astype(np.float32))
        assert np.array_equal(clips.rewards[b], source.rewards[t : t + length])
        assert np.array_equal(clips.terminated[b], source.terminated[t : t + length])


def test_several_segments_and_reading_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SEGMENT_EPISODES", 4)
    episodes = [episode(3 + i, i, states=True) for i in range(10)]
    with Dataset.create(tmp_path, SPEC) as out:
        for n, e in enumerate(episodes, 1):
            out.add(e)
            live = Dataset(tmp_path)
            assert len(live) == n
            assert_equal(live.episode(n - 1), e)
            assert_equal(live.episode(0), episodes[0])
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [
        f"0000{i}{end}.parquet" for i in range(3) for end in ("", ".states")
    ]
    assert not list(tmp_path.glob("*.journal"))
    for stored, given_ in zip(Dataset(tmp_path), episodes, strict=True):
        assert_equal(stored, given_)


# Damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[Episode]]:
    path = tmp_path_factory.mktemp("whole") / "d"
    episodes = [episode(20 + i, i, states=True) for i in range(4)]
    write(path, episodes[:2])
    write(path, episodes[2:])
    return path, episodes


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, whole) -> tuple[Path, list[Episode]]:
    """A dataset whose second segment was never sealed, as after a killed recorder."""
    path = tmp_path_factory.mktemp("unfinished") / "d"
    write(path, whole[1][:2])
    out = Dataset.create(path, SPEC)
    for e in whole[1][2:]:
        out.add(e)
    abandon(out)
    return path, whole[1]


def abandon(out: writer.Writer) -> None:
    """Let go of a writer as the system does when its process is killed: nothing is finished, the lock is gone."""
    out._lock.close()
    out._frames = out._journal = None


def read_all(path: Path) -> list[Episode]:
    return list(Dataset(path))


@pytest.mark.parametrize("kind", ["whole", "unfinished"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_never_silently_decoded(tmp_path_factory, whole, unfinished, kind, data):
    source, episodes = whole if kind == "whole" else unfinished
    path = tmp_path_factory.mktemp("flip") / "d"
    shutil.copytree(source, path)
    name = data.draw(st.sampled_from(sorted(p.name for p in path.iterdir() if p.name != ".lock")))
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / name).write_bytes(content)
    found, refusal = [], None
    try:
        found = read_all(path)
    except DatasetError as error:
        refusal = error
    if refusal is None:
        # What is wrong must not matter (such as the totals, shown for people).
        for stored, given_ in zip(found, episodes, strict=True):
            assert_equal(stored, given_)
    elif isinstance(refusal, DamagedData):
        assert name in str(refusal)
        assert any(name in message for message in verify(path))
    else:  # a flipped digit of the format version
        assert name == "dataset.json"
        assert "format" in str(refusal)


@pytest.mark.parametrize("end", [".frames", ".parquet", ".states.parquet"])
@pytest.mark.parametrize("how", ["cut", "delete", "zero"])
def test_cut_missing_and_zeroed_files_are_named(tmp_path, whole, end, how):
    source, _ = whole
    path = tmp_path / "d"
    shutil.copytree(source, path)
    file = path / f"00001{end}"
    size = file.stat().st_size
    if how == "cut":
        file.write_bytes(file.read_bytes()[: size // 2])
    elif how == "zero":
        file.write_bytes(bytes(size))
    else:
        file.unlink()
    with pytest.raises(DamagedData, match=rf"00001{end}"):
        read_all(path)
    assert all(f"00001{end}" in message for message in verify(path))
    assert verify(path)
    assert verify(path) == Dataset(path).verify() if end != ".parquet" else True


def test_a_damaged_chunk_is_named_with_its_number_and_the_rest_still_reads(tmp_path, whole):
    source, episodes = whole
    path = tmp_path / "d"
    shutil.copytree(source, path)
    dataset = Dataset(path, cache_mb=0)
    place = dataset._index.place(int(dataset._index.stream_first["pixels"][3]) + 1)  # frames 16.. of episode 3
    content = bytearray((path / f"{place.segment}.frames").read_bytes())
    content[place.offset + place.size // 2] ^= 255
    (path / f"{place.segment}.frames").write_bytes(content)
    expected = rf"00001\.frames, chunk {place.number} \(episode 3, stream 'pixels'\)"
    with pytest.raises(DamagedData, match=expected):
        dataset.episode(3)
    with pytest.raises(DamagedData, match=expected):
        dataset.clips([0, 3], [0, 14], 4)
    dataset.clips([0, 3], [0, 4], 4)  # other chunks of the same episode
    assert len(verify(path)) == 1

    kept = salvage(path, tmp_path / "kept")
    assert len(kept) == 3
    for stored, given_ in zip(kept, episodes[:3], strict=True):
        assert_equal(stored, given_)
    with pytest.raises(DatasetError, match="already"):
        salvage(path, tmp_path / "kept")


def test_a_segment_with_a_lost_index_is_salvaged_around(tmp_path, whole):
    source, episodes = whole
    path = tmp_path / "d"
    shutil.copytree(source, path)
    (path / "00000.parquet").write_bytes(b"nothing")
    (path / "00001.states.parquet").write_bytes(b"nothing")
    kept = salvage(path, tmp_path / "kept")
    assert [e.info for e in kept] == [e.info for e in episodes[2:]]
    assert [e.states for e in kept] == [{}, {}]


def test_torn_journals_lose_only_the_last_episode(tmp_path, unfinished, caplog):
    source, episodes = unfinished
    content = (source / "00001.journal").read_bytes()
    for keep in (*range(1, 60, 7), len(content) // 2, len(content) * 3 // 4, len(content) - 1):
        path = tmp_path / str(keep)
        shutil.copytree(source, path)
        (path / "00001.journal").write_bytes(content[:keep])
        with caplog.at_level(logging.WARNING):
            found = read_all(path)
        assert "left out" in caplog.text
        assert len(found) in (2, 3)
        for stored, given_ in zip(found, episodes):
            assert_equal(stored, given_)
        more = write(path, [episodes[-1]])  # the next writer seals what there is, and goes on
        assert [e.info for e in more] == [e.info for e in found] + [episodes[-1].info]
        assert verify(path) == []


@pytest.mark.parametrize("record", [0, 1])
@pytest.mark.parametrize("at", [0, 8, 9, 20, 24, 100, -1])  # in the mark, the length, the hash, the payload
def test_a_damaged_record_is_named_wherever_it_stands(tmp_path, unfinished, record, at):
    source, episodes = unfinished
    path = tmp_path / "d"
    shutil.copytree(source, path)
    content = bytearray((path / "00001.journal").read_bytes())
    second = content.index(b"TERRELLA", 1)
    start, stop = ((0, second), (second, len(content)))[record]
    content[stop - 1 if at < 0 else start + at] ^= 1
    (path / "00001.journal").write_bytes(content)
    expected = rf"record {record} of .*00001\.journal \(episode {record} of"
    for use in (Dataset, lambda p: Dataset.create(p, SPEC)):
        with pytest.raises(DamagedData, match=expected):
            use(path)
    assert len(verify(path)) == 1
    kept = salvage(path, tmp_path / "kept")
    for stored, given_ in zip(kept, [*episodes[:2], episodes[3 - record]], strict=True):
        assert_equal(stored, given_)


@pytest.mark.parametrize("end", [".journal", ".frames"])
@pytest.mark.parametrize("lost", [40, 400])
def test_what_a_power_cut_left_unwritten_takes_its_episode_along(tmp_path, unfinished, caplog, end, lost):
    """The file has its length, but its end was never written and reads as zeros."""
    path = tmp_path / "d"
    shutil.copytree(unfinished[0], path)
    file = path / f"00001{end}"
    content = file.read_bytes()
    # Episodes this small fill no page: one is made to begin where the writing is to have stopped.
    edge = len(content) - lost
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_PAGE", edge)
        file.write_bytes(content[:edge] + bytes(lost))
        with caplog.at_level(logging.WARNING):
            assert len(Dataset(path)) == 3
        assert "left out" in caplog.text
        assert len(write(path, [])) == 3
    assert verify(path) == []


def test_cut_frames_take_their_episode_along(tmp_path, unfinished):
    path = tmp_path / "d"
    shutil.copytree(unfinished[0], path)
    content = (path / "00001.frames").read_bytes()
    (path / "00001.frames").write_bytes(content[:-1])
    assert len(Dataset(path)) == 3
    assert len(write(path, [])) == 3
    assert verify(path) == []


def test_damaged_frames_of_the_last_episode_are_named(tmp_path, unfinished):
    path = tmp_path / "d"
    shutil.copytree(unfinished[0], path)
    content = (path / "00001.frames").read_bytes()
    (path / "00001.frames").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    expected = r"00001\.frames, chunk \d+ \(episode 3, "
    for dataset in (Dataset(path), write(path, [])):  # unfinished, and finished by the next writer
        assert len(dataset) == 4
        with pytest.raises(DamagedData, match=expected):
            dataset.episode(3)
    assert len(verify(path)) == 1
    assert len(salvage(path, tmp_path / "kept")) == 3


def test_half_written_temporary_files_are_cleaned(tmp_path, whole):
    source, episodes = whole
    path = tmp_path / "d"
    shutil.copytree(source, path)
    for name in ("00002.parquet.tmp", "00002.states.parquet.tmp", "dataset.json.tmp", "00007.frames"):
        (path / name).write_bytes(b"half")
    (path / "notes.tmp").write_text("mine")
    assert len(Dataset(path)) == 4
    assert len(write(path, [episodes[0]])) == 5
    names = {p.name for p in path.iterdir()}
    assert {n for n in names if n.endswith(".tmp")} == {"notes.tmp"}  # other people's files stay
    assert "00007.frames" not in names


@pytest.mark.parametrize("fail_at", range(1, 16))
def test_a_writer_stopped_anywhere_loses_nothing_whole(tmp_path, monkeypatch, fail_at):
    """Every call that changes the folder fails once, and the writer dies there."""
    episodes = [episode(4, i, states=True) for i in range(4)]
    calls = 0

    def failing(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return call

    out = Dataset.create(tmp_path, SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "SYNC_SECONDS", 0.0)
        for name in ("fsync", "replace", "unlink"):
            patch.setattr("os." + name, failing(getattr(os, name)))
        added = 0
        try:
            for e in episodes:
                out.add(e)
                added += 1
            out.close()
            assert calls < fail_at
        except KeyboardInterrupt:
            pass
    abandon(out)
    found = read_all(tmp_path)
    assert added <= len(found) <= added + 1
    for stored, given_ in zip(found, episodes):
        assert_equal(stored, given_)
    again = write(tmp_path, episodes[len(found) :])
    for stored, given_ in zip(again, episodes, strict=True):
        assert_equal(stored, given_)
    assert verify(tmp_path) == []
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob("*.journal"))


def test_a_full_disk_in_the_middle_of_an_episode_leaves_the_writer_usable(tmp_path, monkeypatch):
    episodes = [episode(30, i) for i in range(3)]
    with Dataset.create(tmp_path, SPEC) as out:
        out.add(episodes[0])
        with monkeypatch.context() as patch:

            def full(file, data):
                file.write(data[: len(data) // 2])
                raise OSError(28, "No space left on device")

            patch.setattr(writer, "_write_all", full)
            with pytest.raises(OSError, match="No space"):
                out.add(episodes[1])
        out.add(episodes[2])
    assert [e.info["level"] for e in Dataset(tmp_path)] == [0, 2]
    assert verify(tmp_path) == []


# Refusals ----------------------------------------------------------------------------------------------------------


def test_another_spec_is_refused_and_another_speed_is_not(tmp_path):
    write(tmp_path, [episode(3, 0)])
    with pytest.raises(SpecError, match="action"):
        Dataset.create(tmp_path, dataclasses.replace(SPEC, action=ActionSpec("discrete", n=2)))
    with pytest.raises(SpecError, match="streams"):
        Dataset.create(tmp_path, dataclasses.replace(SPEC, streams={"pixels": StreamSpec("image", (5, 4, 3))}))
    with pytest.raises(SpecError, match="env"):
        Dataset.create(tmp_path, dataclasses.replace(SPEC, env=EnvSpec("Elsewhere-v0")))
    assert len(write(tmp_path, [episode(3, 1)], dataclasses.replace(SPEC, fps=60.0))) == 2


def test_one_writer_at_a_time(tmp_path):
    with (
        Dataset.create(tmp_path, SPEC) as out,
        pytest.raises(DatasetError, match="another process is writing"),
    ):
        Dataset.create(tmp_path, SPEC)
    with pytest.raises(DatasetError, match="closed"):
        out.add(episode(3, 0))
    Dataset.create(tmp_path, SPEC).close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda e: e.observations.pop("vector"), "streams"),
        (lambda e: e.observations.update(pixels=e.observations["pixels"].astype(np.int64)), "uint8"),
        (lambda e: e.observations.update(pixels=e.observations["pixels"][:, :4]), "shape"),
        (lambda e: e.observations.update(mission=np.zeros(4)), "text"),
        (lambda e: setattr(e, "actions", np.zeros((3, 3))), "rows of"),
        (lambda e: setattr(e, "seed", 2**70), "64 bits"),
        (lambda e: e.info.update(x=object()), "JSON"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_leaves_no_trace(tmp_path, change, error):
    bad = episode(3, 0)
    change(bad)
    with Dataset.create(tmp_path, SPEC) as out:
        with pytest.raises((SpecError, DatasetError), match=error):
            out.add(bad)
        out.add(episode(3, 1))
    assert [e.info["level"] for e in Dataset(tmp_path)] == [1]


def test_episodes_check_their_own_lengths():
    good = episode(3, 0)
    frames = {"pixels": good.observations["pixels"]}
    with pytest.raises(DatasetError, match="4 frames; 2 actions need 3"):
        Episode(frames, good.actions[:2], good.rewards, good.terminated, good.truncated)
    with pytest.raises(DatasetError, match="rewards"):
        Episode(frames, good.actions, good.rewards[:1], good.terminated, good.truncated)
    with pytest.raises(DatasetError, match=r"\(T, W\)"):
        Episode(frames, good.actions[:, 0], good.rewards, good.terminated, good.truncated)
    with pytest.raises(DatasetError, match="ends at transition 1"):
        Episode(frames, good.actions, good.rewards, np.array([False, True, False]), np.zeros(3, bool))


def test_messages_for_what_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="no dataset at"):
        Dataset(tmp_path / "nowhere")
    empty = write(tmp_path / "empty", [])
    assert len(empty) == empty.steps == 0
    with pytest.raises(DatasetError, match="no episodes"):
        empty.sample(1, 1, np.random.default_rng(0))
    dataset = write(tmp_path / "d", [episode(3, 0), episode(5, 1), episode(4, 2)])
    with pytest.raises(DatasetError, match="no episode 3"):
        dataset.episode(3)
    assert_equal(dataset.episode(-1), dataset.episode(2))
    with pytest.raises(DatasetError, match="longest of 3 has 5"):
        dataset.sample(1, 6, np.random.default_rng(0), "all")
    with pytest.raises(DatasetError, match="does not fit episode 0"):
        dataset.clips([0], [1], 3)
    with pytest.raises(DatasetError, match="split"):
        dataset.split("test")  # type: ignore[arg-type]
    manifest = json.loads((tmp_path / "d" / "dataset.json").read_text())
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        Dataset(tmp_path / "d")


# Sampling ----------------------------------------------------------------------------------------------------------

SMALL = WorldSpec({"vector": StreamSpec("vector", (1,))}, ActionSpec("discrete", n=9))


def small(steps: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    ends = np.zeros(steps, bool)
    return Episode(
        {"vector": rng.random((steps + 1, 1)).astype(np.float32)},
        rng.integers(0, 9, (steps, 1)).astype(np.float64),
        np.zeros(steps, np.float32),
        ends,
        ends.copy(),
    )


def test_every_start_position_is_equally_likely(tmp_path):
    lengths = [2, 7, 3, 12, 5]
    dataset = write(tmp_path, [small(n, i) for i, n in enumerate(lengths)], SMALL)
    rng = np.random.default_rng(0)
    index, at = dataset.starts(40_000, 5, rng, "all")
    counts = {(e, t): 0 for e, n in enumerate(lengths) for t in range(n - 4)}
    for key in zip(index.tolist(), at.tolist()):
        counts[key] += 1  # a KeyError is a clip that does not fit
    expected = 40_000 / len(counts)
    assert len(counts) == 3 + 8 + 1
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 40  # chi-square, 11 degrees of freedom

    weights = [5.0, 3.0, 9.0, 0.0, 1.0]
    index, at = dataset.starts(40_000, 5, rng, "all", weights)
    share = np.bincount(index, minlength=5) / 40_000
    assert np.allclose(share, [0, 0.9, 0, 0, 0.1], atol=0.01)
    for bad in ([1.0], [-1.0] * 5, [np.nan] * 5):
        with pytest.raises(DatasetError, match="weights"):
            dataset.starts(1, 5, rng, "all", bad)
    with pytest.raises(DatasetError, match="weight 0"):
        dataset.starts(1, 5, rng, "all", [1, 0, 1, 0, 0])


def test_held_out_is_disjoint_stable_and_by_content(tmp_path):
    rng = np.random.default_rng(0)
    held: set[str] = set()
    for rounds in range(12):
        dataset = write(
            tmp_path, [small(int(rng.integers(1, 9)), 1000 * rounds + i) for i in range(1 + 2 * rounds)], SMALL
        )
        train, out = dataset.split("train"), dataset.split("held_out")
        assert not set(train) & set(out)
        assert sorted([*train, *out]) == list(range(len(dataset)))
        assert len(train) >= 1
        assert len(out) >= (1 if len(dataset) >= 2 else 0)
        now = {dataset.uids[i] for i in out}
        assert held <= now
        assert not {dataset.uids[i] for i in train} & now
        held = now
    assert 0.02 < len(held) / len(dataset) < 0.25
    copied = write(tmp_path / "copy", list(dataset), SMALL)
    assert copied.fingerprint == dataset.fingerprint
    assert np.array_equal(copied.split("held_out"), dataset.split("held_out"))


def test_equal_episodes_are_on_the_same_side(tmp_path):
    dataset = write(tmp_path, [small(5, i % 7) for i in range(70)], SMALL)
    sides = [{dataset.uids[i] for i in dataset.split(s)} for s in ("train", "held_out")]
    assert not sides[0] & sides[1]
    same = write(tmp_path / "same", [small(5, 0)] * 3, SMALL)
    with pytest.raises(DatasetError, match="alike"):
        same.sample(1, 1, np.random.default_rng(0), "held_out")


def equal_clips(a: Clips, b: Clips) -> bool:
    return np.array_equal(a.actions, b.actions) and np.array_equal(a.observations["vector"], b.observations["vector"])


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_resumed_sampler_gives_the_same_clips(tmp_path, prefetch, stop):
    dataset = write(tmp_path, [small(40, i) for i in range(5)], SMALL)
    straight = ClipSampler(dataset, 4, 6, seed=3, prefetch=prefetch)
    expected = [next(straight) for _ in range(10)]
    first = ClipSampler(dataset, 4, 6, seed=3, prefetch=1)
    for clips in expected[:stop]:
        assert equal_clips(next(first), clips)
    saved = json.loads(json.dumps(first.state_dict()))
    second = ClipSampler(Dataset(tmp_path), 4, 6, seed=99, prefetch=prefetch)
    next(second)
    second.load_state_dict(saved)
    assert second.drawn == stop
    for clips in expected[stop:]:
        assert equal_clips(next(second), clips)
    assert not equal_clips(expected[0], expected[1])

    with pytest.raises(DatasetError, match="length 6"):
        ClipSampler(dataset, 4, 7).load_state_dict(saved)
    grown = write(tmp_path, [small(40, 9)], SMALL)
    with pytest.raises(DatasetError, match="has changed"):
        ClipSampler(grown, 4, 6).load_state_dict(saved)
    ClipSampler(grown, 4, 6).load_state_dict(saved, strict=False)


def test_the_cache_is_bounded_and_threads_agree(tmp_path):
    spec = WorldSpec({"pixels": StreamSpec("image", (32, 32, 3))}, SPEC.action)
    episodes = [episode(200, i, spec=spec) for i in range(6)]
    write(tmp_path, episodes, spec)
    dataset = Dataset(tmp_path, cache_mb=1, threads=3)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            rng = np.random.default_rng(seed)
            for _ in range(8):
                index, at = dataset.starts(16, 9, rng, "all")
                assert_clips(dataset.clips(index, at, 9), episodes, index, at, 9)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert 0 < dataset._cache.nbytes <= 1 << 20
    assert dataset._cache.nbytes == sum(c.nbytes for c in dataset._cache._chunks.values())


def test_a_dataset_travels_to_another_process(tmp_path):
    dataset = write(tmp_path, [episode(5, 0)])
    assert_equal(pickle.loads(pickle.dumps(dataset)).episode(0), dataset.episode(0))


# Import ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_npz_files_becomes_a_dataset(tmp_path):
    source = tmp_path / "npz"
    source.mkdir()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (n + 1, 8, 8), np.uint8) for n in (3, 6)]
    np.savez(
        source / "b.npz", observations=frames[1], actions=np.arange(6), rewards=np.ones(6), terminated=True, seed=4
    )
    np.savez(source / "a.npz", observations=frames[0], actions=np.arange(3))
    dataset = import_npz(source, tmp_path / "d", fps=30)
    assert dataset.spec.streams == {"pixels": StreamSpec("image", (8, 8, 1))}
    assert dataset.spec.action == ActionSpec("discrete", n=6)
    first, second = dataset
    assert np.array_equal(first.observations["pixels"][..., 0], frames[0])
    assert np.array_equal(second.observations["pixels"][..., 0], frames[1])
    assert first.truncated.tolist() == [False, False, True]
    assert second.terminated.tolist() == [False] * 5 + [True]
    assert second.seed == 4
    assert second.actions.tolist() == [[float(i)] for i in range(6)]


def test_npz_files_of_several_streams_and_what_is_refused(tmp_path):
    source = tmp_path / "npz"
    source.mkdir()
    good = {
        "observations.camera": np.zeros((3, 4, 4, 3), np.uint8),
        "observations.pose": np.ones((3, 2, 2)),
        "actions": np.zeros((2, 3)),
    }
    np.savez(source / "a.npz", **good)
    dataset = import_npz(source, tmp_path / "d")
    assert dataset.spec.streams["pose"] == StreamSpec("vector", (4,))
    assert dataset.spec.action.kind == "box"
    assert dataset.episode(0).observations["pose"].shape == (3, 4)
    np.savez(source / "b.npz", **{k: v for k, v in good.items() if k != "actions"})
    with pytest.raises(DatasetError, match=r"b\.npz has no array 'actions'"):
        import_npz(source, tmp_path / "e")
    np.savez(source / "b.npz", **{**good, "rewards": np.array([object()] * 2)})
    with pytest.raises(DatasetError, match=r"b\.npz cannot be read"):
        import_npz(source, tmp_path / "f")
    with pytest.raises(DatasetError, match=r"no \.npz"):
        import_npz(tmp_path / "nowhere", tmp_path / "g")
