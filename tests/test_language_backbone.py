"""Language models as backbones: from a folder as users have one, adapted, saved and opened again."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import terrella
from terrella import check
from terrella.actions import encode
from terrella.check import ACTION, TOKENS
from terrella.citation import cite
from terrella.data import Dataset
from terrella.engine import Engine
from terrella.errors import ConfigError, MissingExtra, UnknownName, WorldError
from terrella.laws import branches_equal_their_parent, shaken, streaming_equals_parallel
from terrella.nn.dialogue import FAMILIES
from terrella.spec import ActionSpec
from terrella.training import TrainingConfig, world_config
from terrella.training.objective import clip_loss
from terrella.training.presets import training_config
from terrella.world import Part, World, build_part

transformers = pytest.importorskip("transformers")
TOKENIZERS = {"pixels": Part("conv", {"width": 16, "channels": 6}), "state": Part("vector", {"channels": 6})}
TEXT = ActionSpec("text", n=160, charset="abcdefghijklmnopqrstuvwxyz ")
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its head and a tokenizer of words, saved as users would."""
    return saved(tmp_path_factory.mktemp("models") / "tiny")


def saved(path: Path, family: str = "qwen3", seed: int = 0) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.AutoConfig.for_model(family, **SIZES, **HEADS, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    words = ["[UNK]", "go", "to", "end", "the", "red", "blue", "door", "wait"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def backbone(folder: Path, action: ActionSpec = ACTION, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_part("dynamics", Part("language", {"path": str(folder), "window": 2, **settings}), TOKENS, action)


def parts(data: Dataset, folder: Path, **settings: Any) -> Any:
    config = world_config("debug", data.spec, "swin")
    return replace(config, dynamics=Part("language", {"path": str(folder), "window": 3, **settings}))


def weights(model: Any) -> dict[str, torch.Tensor]:
    """All numbers of a model, trained ones and constants."""
    return {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


# a real model, from a folder


@pytest.mark.parametrize("adapt", ["lora", "frozen", "full"])
def test_a_model_from_a_folder_is_trained_saved_and_opened(
    adapt: str, folder: Path, cartpole_data: Dataset, tmp_path: Path
) -> None:
    config = parts(cartpole_data, folder, adapt=adapt, rank=2)
    recipe = replace(training_config("debug", decoder="swin"), length=8)
    how: dict[str, Any] = {"config": config, "training": recipe, "device": "cpu", "progress": False}
    world = terrella.train(cartpole_data, tmp_path / "world", budget="6steps", seed=0, **how)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = weights(World(cartpole_data.spec, config).dynamics)
    moved = {name for name, value in weights(world.dynamics).items() if not torch.equal(value, before[name])}
    own = {name for name in before if name.startswith("blocks.")}
    adapters = {name for name in own if "lora_" in name}
    assert {"queries", "enter.weight"} <= moved
    if adapt == "full":
        assert {name for name in own if "bits" not in name} <= moved
    else:
        assert own & moved == adapters
        assert len(adapters) == (28 if adapt == "lora" else 0)
    theirs = transformers.AutoModel.from_pretrained(folder)
    held = world.dynamics.blocks.get_submodule("layers.1.mlp.up_proj")
    untouched = torch.equal(getattr(held, "base_layer", held).weight, theirs.layers[1].mlp.up_proj.weight)
    assert untouched == (adapt != "full")
    assert ("Low-Rank" in cite(world)) == (adapt == "lora")

    kept = set(World.load(tmp_path / "world").state_dict())
    assert {name for name in kept if name.startswith("dynamics.blocks.")} == {
        f"dynamics.{name}" for name in (own - {n for n in own if "bits" in n} if adapt == "full" else adapters)
    }
    clip, frames = cartpole_data.sample(2, 4, np.random.default_rng(0)), []
    for one in (world, World.load(tmp_path / "world")):
        engine = Engine(one)
        _, frame = engine.rollout(engine.start(clip.observations, clip.actions, seeds=3), clip.actions)
        frames.append(frame.observation["vector"])
    assert np.array_equal(*frames)
    assert np.isfinite(frames[0]).all()


def test_a_folder_that_is_gone_or_another_is_refused_by_name(
    folder: Path, cartpole_data: Dataset, tmp_path: Path
) -> None:
    moving = tmp_path / "model"
    shutil.copytree(folder, moving)
    world = World(cartpole_data.spec, parts(cartpole_data, moving))
    world.save(tmp_path / "world")
    shutil.rmtree(moving)
    with pytest.raises(ConfigError, match=r"model.*no config\.json.*nothing is downloaded"):
        World.load(tmp_path / "world")
    saved(moving, seed=1)
    with pytest.raises(WorldError, match=r"model.*has the hash"):
        World.load(tmp_path / "world")
    shutil.rmtree(moving)
    shutil.copytree(folder, tmp_path / "elsewhere")
    tree = json.loads((tmp_path / "world" / "world.json").read_text())
    tree["config"]["dynamics"]["config"]["path"] = str(tmp_path / "elsewhere")
    (tmp_path / "world" / "world.json").write_text(json.dumps(tree))
    assert World.load(tmp_path / "world").dynamics.name == "language"


def test_weights_are_read_from_safetensors_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "pickled")
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        backbone(tmp_path / "pickled")
    shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "bert", "architectures": ["BertModel"]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="family 'bert'"):
        backbone(tmp_path / "other")
    for wrong in ({"words": 4}, {"adapt": "lore"}, {"dim": 15}, {"window": 0}):
        with pytest.raises(ConfigError):
            build_part("dynamics", Part("language", wrong), TOKENS, ACTION)
    with pytest.raises(UnknownName, match="qwen2"):
        build_part("dynamics", Part("language", {"family": "qwen"}), TOKENS, ACTION)
    with pytest.raises(ConfigError, match="no sentences"):
        backbone(folder, words=4)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"terrella\[text\]"):
        build_part("dynamics", Part("language"), TOKENS, ACTION)


# what it computes


@pytest.mark.parametrize("family", FAMILIES)
def test_adapted_models_keep_their_laws(family: str, folder: Path, tmp_path: Path) -> None:
    part = backbone(folder if family == "qwen3" else saved(tmp_path / family, family), rank=2)
    streaming_equals_parallel(part)
    if family == "qwen3":
        branches_equal_their_parent(part)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_is_that_of_the_library(family: str, tmp_path: Path) -> None:
    """Under a causal mask, own norms and turns give what the model of the library gives."""
    path = saved(tmp_path / family, family)
    own, theirs = backbone(path, adapt="full"), transformers.AutoModel.from_pretrained(path)
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        wanted = theirs(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(own._pass(x, 0, mask, None)[0], wanted)
        torch.testing.assert_close(own._pass(x, 1000, mask, None)[0], wanted, atol=1e-4, rtol=1e-4)


def test_adapters_begin_as_the_model_itself(folder: Path) -> None:
    """And a frozen one says the same: what differs at first is nothing."""
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    parts = [backbone(folder, adapt=adapt) for adapt in ("lora", "frozen", "full")]
    lora, frozen, full = (part._step(part.init(2), x)[0] for part in parts)
    assert torch.equal(lora, frozen)
    assert torch.equal(frozen, full)


def test_sentences_enter_in_the_models_own_words(folder: Path) -> None:
    part = shaken(backbone(folder, TEXT, words=4))
    said = ("go to the red door", "go to the blue door", "go to the red door wait", "wait")
    rows = torch.tensor(np.stack([encode(TEXT, text) for text in said])).float()
    tokens = part.act(rows, part.loud[1])
    ids = torch.tensor([[1, 2, 4, 5], [1, 2, 4, 6], [1, 2, 4, 5], [8, 3, 3, 3]])  # cut, or filled up
    assert torch.equal(tokens, part.act.vocabulary.weight[ids])
    slabs = part.init(4)
    told = part.predict(slabs, rows)
    assert torch.equal(told[0], told[2])
    assert (told[0] - told[1]).abs().max() > 1e-3
    none = part.predict(slabs, rows.masked_fill(torch.ones_like(rows).bool(), torch.nan))
    assert (told - none).abs().amax((1, 2)).min() > 1e-3
    streaming_equals_parallel(backbone(folder, TEXT, words=4))


@pytest.mark.parametrize(
    "law", [check.rollout_equals_parallel, check.saved_states_go_on, check.looking_changes_no_latent]
)
def test_a_slow_state_of_language_is_rendered_in_chunks(law: Any) -> None:
    """The parts of PAN together; frames shown are what is remembered where they are re-encoded."""
    swin = Part("swin", {"unit": 2, "steps": 2, "dim": 16, "layers": 1, "heads": 1})
    language = Part("language", {"dim": 16, "heads": 2, "layers": 1, "window": 1})
    law(check.example_world(language, swin, context_level=0.9, tokenizers=TOKENIZERS), torch.float32)


def test_a_memory_of_few_bits_rounds_no_places(folder: Path) -> None:
    part = backbone(folder)
    exact = part.turns.on(torch.ones(1, 8), torch.tensor([-211]))
    rounded = part.to(torch.bfloat16).turns.on(torch.ones(1, 8), torch.tensor([-211]))
    assert torch.equal(exact, rounded)


# what teaches it


def batch(data: Dataset, world: World) -> tuple[torch.Tensor, ...]:
    clip = data.sample(2, 8, np.random.default_rng(0))
    with torch.no_grad():
        z = world.encode(world.tensors(clip.observations))
    rows = torch.from_numpy(clip.actions).float()
    rows = torch.cat([torch.full_like(rows[:, :1], torch.nan), rows], 1)
    zeros = torch.zeros(rows.shape[:2])
    return z, rows, zeros, zeros


@pytest.mark.parametrize("supervision", ["decoder", "latent"])
def test_latents_or_the_decoder_teach_the_backbone(supervision: str, cartpole_data: Dataset) -> None:
    """Matching latents, nothing of the decoder's loss reaches the backbone; both teach the decoder."""
    torch.manual_seed(0)
    config = replace(
        world_config("debug", cartpole_data.spec, "swin", "language"),
        dynamics=Part("language", {"dim": 16, "heads": 1}),
    )
    world = shaken(World(cartpole_data.spec, config)).requires_grad_(True)
    how: dict[str, Any] = {"self_fed": 0.0, "length": 8, "reward_weight": 0.0, "end_weight": 0.0}
    recipe = TrainingConfig(**how, supervision=supervision)  # pyright: ignore[reportArgumentType]

    def gradients() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        world.zero_grad()
        given = batch(cartpole_data, world)
        total, parts = clip_loss(world, recipe, *given, 0.5, torch.Generator().manual_seed(1))
        total.backward()
        slow, drawn = world.dynamics.queries.grad, world.decoder.window.enter.weight.grad  # pyright: ignore
        return slow.clone(), drawn.clone(), parts  # pyright: ignore

    slow, drawn, parts = gradients()
    assert drawn.abs().max() > 0
    assert slow.abs().max() > 0
    with torch.no_grad():
        world.decoder.window.leave[1].weight.mul_(3)  # pyright: ignore  (another loss of the decoder)
    again, other, _ = gradients()
    assert not torch.equal(drawn, other)
    assert torch.equal(slow, again) == (supervision == "latent")
    assert ("match" in parts) == (supervision == "latent")


def test_latents_cannot_teach_a_backbone_that_denoises(cartpole_data: Dataset) -> None:
    recipe = replace(training_config("debug"), supervision="latent")
    with pytest.raises(ConfigError, match="swin"):
        terrella.train(cartpole_data, budget="2steps", preset="debug", training=recipe, progress=False, device="cpu")
    with pytest.raises(UnknownName, match="latent"):
        TrainingConfig(supervision="latents")  # pyright: ignore[reportArgumentType]
