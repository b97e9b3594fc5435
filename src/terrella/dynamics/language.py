"""A language model as a backbone: history is a dialogue of actions and states, learned queries ask for the next state.

    remembered   [a_1 z_1] [a_2 z_2] ... [a_t z_t]                      a window of frames, S = A + N tokens each
    asked        [a_t+1 q]  ->  N outputs at the queries q  ->  z_t+1

An action is one token, or a sentence in the model's own words (`words`); a state enters as its N projected tokens.
Within a frame words see what was said before them, states and queries see their whole frame; frames see those before.

Notable choices
- The layers are those of transformers, called as its models are; memory is the project's own, a slab of keys and values
  with an axis of frames (`terrella.nn.dialogue`). Sessions fork, merge and rest like those of any other backbone.
- What is asked for never enters the memory: a finished frame is told in a pass of its own. Training passes all told
  frames of a clip at once, and all asked ones after them, under one mask.
- A query also sees the noisy latent, if there is one, and the latent before at its place, and gives the change: with
  the decoder `swin` the backbone is asked for slow states alone, with `shortcut` it denoises itself.
- A pretrained model stays as it is, or takes adapters of low rank; what was not trained does not travel with a world.

Ref: PAN, arXiv 2511.09057 (a state of continuous tokens written by a language model from a dialogue of images and
actions, learned through the loss of a decoder); Hu et al., LoRA, arXiv 2106.09685. Differs: states are tokens of the
world's own tokenizers instead of a vision model's, one a token of the frame instead of 256; the residual; the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..actions import describe
from ..errors import ConfigError, did_you_mean, missing_extra
from ..nn.actions import ActionEmbedding
from ..nn.blocks import ChangeHead, OutcomeHead
from ..nn.dialogue import FAMILIES, Beside, Layers, Turns, exact_norms, remembered
from ..nn.folder import Memo, Origin, fix, library, model_of, settings_of, tokenizer_of
from ..nn.latents import Noise, Outcome, Predict, TokenSpec
from ..nn.layers import LevelEmbedding, rms
from ..nn.slabs import Slabs, SlabSpec, StateSpec
from ..registry import register
from ..spec import ActionSpec
from .base import Dynamics

WHAT = "the backbone 'language'"
ADAPT = ("lora", "frozen", "full")
ADAPTED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class LanguageConfig:
    """Which language model, and how many frames it remembers.

    path: the folder of a pretrained one, of a family of `terrella.nn.dialogue.FAMILIES`; None makes a new `family` of
    width `dim` with `layers`, `heads` and `mlp`. adapt: what of a pretrained one is trained: adapters of `rank`
    (`lora`), nothing (`frozen`: only queries and projections around it) or everything (`full`). words: 0, or how many
    tokens of the model's own vocabulary a sentence takes, for actions that are text.
    """

    path: str | None = None
    adapt: Literal["lora", "frozen", "full"] = "lora"
    rank: int = 16
    words: int = 0
    window: int = 12
    family: str = "qwen3"
    dim: int = 192
    layers: int = 4
    heads: int = 3
    mlp: float = 3.0

    def __post_init__(self) -> None:
        if self.adapt not in ADAPT:
            raise did_you_mean(str(self.adapt), ADAPT, "way to adapt a language model")
        if self.family not in FAMILIES:
            raise did_you_mean(self.family, FAMILIES, "family of language models")
        if self.window < 1 or self.rank < 1 or self.layers < 1 or self.words < 0:
            raise ConfigError("window, rank and layers must be at least 1, words at least 0.")
        if self.heads < 1 or self.dim % (2 * self.heads):
            raise ConfigError(f"dim {self.dim} must be a multiple of 2 x heads ({self.heads}), for rotary pairs.")
        if self.words and self.path is None:
            raise ConfigError("words is the number of tokens in a pretrained model's vocabulary; name its `path`.")


@register("dynamics", "language")
class Language(Dynamics):
    """The language backbone. Needs the extra `text`; raises `MissingExtra` without, `ConfigError` for a wrong folder.

    Memory a session: `2 * layers * window * (A + N)` times the width of the model's keys, and one latent.
    """

    Config = LanguageConfig
    own: Tensor

    def __init__(self, config: LanguageConfig, tokens: TokenSpec, action: ActionSpec):
        super().__init__(tokens, action)
        self.config = c = config
        model = _new(c) if c.path is None else _opened(c.path)
        dim, layers, head = model.config.hidden_size, model.config.num_hidden_layers, 2 * len(model.rotary_emb.inv_freq)
        self.origin = None if c.path is None else Origin(c.path, weights=c.adapt != "full")
        self.loudness = 1.0 if c.path is None else float(model.embed_tokens.weight.detach().std())  # of its words
        self.turns, vocabulary = Turns(model.rotary_emb), model.embed_tokens
        model.rotary_emb, model.embed_tokens = self.turns, None
        self.blocks = exact_norms(model)  # in here, matrices are trained as those of other backbones' blocks
        if c.path is not None and c.adapt != "full":
            self.blocks = fix(_adapted(self.blocks, c) if c.adapt == "lora" else self.blocks.requires_grad_(False))
        self.act = _OwnWords(c, action, vocabulary) if c.words else _OneToken(action, dim)
        self.actions = max(1, c.words)
        self.span = self.actions + tokens.n
        framed = SlabSpec((layers, model.config.num_key_value_heads, c.window, self.span, head), frame_axis=2)
        previous, level = SlabSpec((tokens.n, tokens.channels)), SlabSpec(())
        self.spec = StateSpec({"keys": framed, "values": framed, "previous": previous, "level": level}, c.window)

        self.queries = nn.Parameter(torch.randn(2, tokens.n, dim) * 0.5)  # of what is asked for; of what is told
        self.enter = nn.Linear(2 * tokens.channels, dim)
        self.blank = nn.Parameter(torch.randn(tokens.n, tokens.channels) * 0.02)  # stands for z when there is none
        self.tau, self.d, self.level = LevelEmbedding(dim), LevelEmbedding(dim), LevelEmbedding(dim)
        self.loud = nn.Parameter(torch.full((2, dim), self.loudness))
        self.leave, self.outcome = ChangeHead(dim, tokens.channels), OutcomeHead(dim)
        own = torch.ones(self.span, self.span, dtype=torch.bool).tril()
        own[self.actions :] = True
        self.register_buffer("own", own, persistent=False)  # which tokens of its frame each one sees

    # one frame

    def predict(
        self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """See `Dynamics.predict`."""
        previous = slabs.recurrent["previous"]
        x, _ = self._step(slabs, self._asked(action_BW, z_BNZ, previous, slabs.recurrent["level"], noise))
        return self._leave(x, previous)

    def commit(self, slabs: Slabs, action_BW: Tensor, z_BNZ: Tensor, tau_B: Tensor) -> tuple[Slabs, Outcome]:
        """See `Dynamics.commit`."""
        recurrent = slabs.recurrent
        told = self._told(action_BW, z_BNZ, recurrent["previous"], recurrent["level"], tau_B)
        x, written = self._step(slabs, told)
        keys, values = (torch.stack(parts, 1) for parts in zip(*written))
        after = slabs.append({"keys": keys, "values": values}, {"previous": z_BNZ, "level": tau_B})
        return after, self.outcome(x[:, self.actions :])

    def _step(self, slabs: Slabs, x_BSD: Tensor) -> tuple[Tensor, Layers]:
        past = slabs.scratch.get(self.name)  # the same for all passes of a frame
        if not isinstance(past, tuple):
            past = slabs.scratch[self.name] = remembered(slabs, self.turns, self.span)
        layers, sight = past
        mask = torch.cat([sight[:, None].expand(-1, self.span, -1), self.own.expand(len(sight), -1, -1)], 2)
        return self._pass(x_BSD, 0, mask[:, None], layers)

    # whole clips

    def parallel(self, z_BTNZ: Tensor, action_BTW: Tensor, tau_BT: Tensor, since: int = 0) -> tuple[Outcome, Predict]:
        """See `Dynamics.parallel`. The dialogue is told once; what it leaves serves every call of what is returned."""
        previous = F.pad(z_BTNZ[:, :-1], (0, 0, 0, 0, 1, 0))
        level = F.pad(tau_BT[:, :-1], (1, 0))
        frame = torch.arange(z_BTNZ.shape[1], device=z_BTNZ.device)
        age = frame[:, None] - frame
        before = ((age > 0) & (age <= self.config.window)).repeat_interleave(self.span, 0)
        before, now = before.repeat_interleave(self.span, 1), torch.eye(len(frame), device=frame.device).bool()
        now = now[:, None, :, None] & self.own[:, None]  # (T, S, T, S)
        told = self._told(action_BTW, z_BTNZ, previous, level, tau_BT)
        x, written = self._pass(told.flatten(1, 2), 0, (before | now.flatten(2).flatten(0, 1))[None, None], None)
        x = x.unflatten(1, (-1, self.span))
        ahead = torch.cat([before[since * self.span :], now[since:, :, since:].flatten(2).flatten(0, 1)], 1)

        def predict(z: Tensor | None, noise: Noise | None) -> Tensor:
            asked = self._asked(action_BTW[:, since:], z, previous[:, since:], level[:, since:], noise)
            x, _ = self._pass(asked.flatten(1, 2), since * self.span, ahead[None, None], written)
            return self._leave(x.unflatten(1, (-1, self.span)), previous[:, since:])

        return self.outcome(x[..., self.actions :, :]), predict

    # shared by both

    def _asked(self, action: Tensor, z: Tensor | None, previous: Tensor, level: Tensor, noise: Noise | None) -> Tensor:
        z = self.blank.expand_as(previous) if z is None else z
        condition = self.level(level)
        if noise is not None:
            condition = condition + self.tau(noise.tau) + self.d(noise.d)
        return self._frame(action, z, previous, condition, 0)

    def _told(self, action: Tensor, z: Tensor, previous: Tensor, level: Tensor, tau: Tensor) -> Tensor:
        return self._frame(action, z, previous, self.level(level) + self.tau(tau), 1)

    def _frame(self, action: Tensor, z: Tensor, previous: Tensor, condition: Tensor, stream: int) -> Tensor:
        """The tokens of frames `(..., S, D)`, as loud as the words that the model knows."""
        dtype = self.queries.dtype
        x = (
            self.enter(torch.cat([z.to(dtype), previous.to(dtype)], -1))
            + self.queries[stream]
            + condition[..., None, :]
        )
        said = self.act(action, self.loud[1])
        return torch.cat([said.to(dtype), rms(x.to(dtype), self.loud[0])], -2)

    def _pass(self, x_BMD: Tensor, place: int, mask: Tensor, before: Layers | None) -> tuple[Tensor, Layers]:
        beside = Beside(before)
        places = torch.arange(place, place + x_BMD.shape[1], device=x_BMD.device)[None]
        how: dict[str, Any] = {"attention_mask": mask, "position_ids": places, "past_key_values": beside}
        return self.blocks(inputs_embeds=x_BMD, use_cache=True, **how).last_hidden_state, beside.written

    def _leave(self, x: Tensor, previous: Tensor) -> Tensor:
        # What changes is small: the network starts as "nothing moves" and learns the difference.
        return previous.to(x.dtype) + self.leave(x[..., self.actions :, :])


class _OneToken(nn.Module):
    """An action of any space as one token, `(..., W)` -> `(..., 1, D)`."""

    def __init__(self, action: ActionSpec, dim: int):
        super().__init__()
        self.embed = ActionEmbedding(action, dim)

    def forward(self, rows: Tensor, loud: Tensor) -> Tensor:
        return rms(self.embed(rows).to(loud.dtype), loud)[..., None, :]


class _OwnWords(nn.Module):
    """A sentence in the model's own vocabulary, `(..., W)` -> `(..., A, D)`: cut at A tokens, or filled up at its end.

    Clips and single frames are looked up alike, each distinct sentence once.
    """

    def __init__(self, c: LanguageConfig, action: ActionSpec, vocabulary: nn.Embedding):
        super().__init__()
        if action.kind != "text":
            raise ConfigError(
                f"words is {c.words}, but actions are {describe(action)}, no sentences; leave words at 0."
            )
        assert c.path is not None  # the config has seen to it
        self.none = nn.Parameter(torch.randn(c.words, vocabulary.embedding_dim) * vocabulary.weight.detach().std())
        self.vocabulary = vocabulary if c.adapt == "full" else fix(vocabulary.requires_grad_(False))
        tokenizer, end = tokenizer_of(c.path, WHAT), settings_of(c.path, WHAT).eos_token_id
        filled = [(end[0] if isinstance(end, list) else end) or 0] * c.words
        tokenizer.no_padding()

        def read(text: str) -> np.ndarray:
            return np.array([*tokenizer.encode(text, add_special_tokens=False).ids, *filled][: c.words], np.int64)

        self.memo = Memo(read)

    def forward(self, rows: Tensor, loud: Tensor) -> Tensor:
        del loud  # words are as loud as they are
        ids = self.memo(rows.nan_to_num(-1.0).flatten(0, -2).long()).unflatten(0, rows.shape[:-1])
        return torch.where(rows[..., :1, None].isnan(), self.none, self.vocabulary(ids))


def _new(c: LanguageConfig) -> Any:
    """A language model of random weights, whose layers speak as loudly as what enters them."""
    transformers = library(WHAT)
    hidden = max(16, int(c.mlp * c.dim * 2 / 3) // 16 * 16)
    sizes = {"hidden_size": c.dim, "intermediate_size": hidden, "head_dim": c.dim // c.heads, "vocab_size": 1}
    counts = {"num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.heads}
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    how = {**sizes, **counts, **ends, "initializer_range": c.dim**-0.5}
    config = transformers.AutoConfig.for_model(c.family, **how)
    return transformers.AutoModel.from_config(config, attn_implementation="sdpa")


def _opened(path: str) -> Any:
    """A pretrained language model; raises `ConfigError` for one of another family."""
    family = settings_of(path, WHAT).model_type
    if family not in FAMILIES:
        raise ConfigError(f"{path!r} holds a model of the family {family!r}; {WHAT} knows {', '.join(FAMILIES)}.")
    return model_of(path, WHAT)


def _adapted(model: nn.Module, c: LanguageConfig) -> nn.Module:
    """Put adapters beside the matrices of every layer."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("peft", "text", f"{WHAT} with adapt='lora'") from error
    return inject_adapter_in_model(LoraConfig(r=c.rank, lora_alpha=2 * c.rank, target_modules=ADAPTED), model)
