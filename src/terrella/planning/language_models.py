"""Language models that are asked in words: from a local folder, or behind an address that speaks OpenAI's protocol.

What they answer is text and nothing else: proposers and critics look it up among what they know, and nothing of it is
ever run. Heavy packages are imported when a model is opened.
"""

from __future__ import annotations

import base64
import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError, LanguageModelError, missing_extra


class LanguageModel(ABC):
    """Answers a question in words. sees: whether pictures can be part of the question."""

    sees: bool = False

    @abstractmethod
    def complete(self, prompt: str, pictures: Sequence[np.ndarray] = (), seed: int = 0) -> str:
        """Answer `prompt`; pictures: uint8 `(h, w, 3)`, in the order in which the prompt speaks of them.

        Raises `LanguageModelError` where there is no answer, `ConfigError` for pictures that nobody here can see.
        """


class LocalModel(LanguageModel):
    """A causal language model of Hugging Face's transformers in a folder: `config.json`, tokenizer, safetensors.

    tokens: of an answer, at most. temperature: 0 takes the likeliest word each time. device, dtype: of the weights.
    Nothing is fetched, no code of the folder is run, and weights that are no safetensors are refused.

    Raises `MissingExtra` without transformers, `LanguageModelError` for a folder that holds no such model.
    """

    def __init__(
        self,
        folder: str | Path,
        tokens: int = 128,
        temperature: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ):
        _check(tokens, temperature)
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ModuleNotFoundError as error:
            raise missing_extra("transformers", "text", "a local language model") from error
        self.folder, self.tokens, self.temperature = Path(folder), tokens, temperature
        if not (self.folder / "config.json").exists() or not list(self.folder.glob("*.safetensors")):
            raise LanguageModelError(
                f"{folder} holds no language model; expected a folder with config.json, a tokenizer and weights as "
                "safetensors, as save_pretrained writes it. Download one there first: nothing is fetched from here."
            )
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._words = AutoTokenizer.from_pretrained(str(folder), **safe)
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, **safe)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise LanguageModelError(f"{folder} cannot be opened as a causal language model: {error}") from error
        model = model.to(device) if dtype is None else model.to(device, dtype)
        self._model = model.eval().requires_grad_(False)

    def __repr__(self) -> str:
        return f"LocalModel({str(self.folder)!r}, tokens={self.tokens}, temperature={self.temperature})"

    @torch.inference_mode()
    def complete(self, prompt: str, pictures: Sequence[np.ndarray] = (), seed: int = 0) -> str:
        """See `LanguageModel.complete`; the tokenizer's chat template is used where it has one.

        Raises `LanguageModelError` for a prompt that is too long for the model.
        """
        if len(pictures):
            raise ConfigError("a local language model reads text alone; give it a narrator instead of pictures.")
        if self._words.chat_template:
            said = [{"role": "user", "content": prompt}]
            prompt = str(self._words.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        # A template has written the marks of beginning and end itself.
        asked = self._words(prompt, return_tensors="pt", add_special_tokens=not self._words.chat_template)
        ids = asked["input_ids"].to(self._model.device)
        most = getattr(self._model.config, "max_position_embeddings", None)
        if most is not None and ids.shape[1] + self.tokens > most:
            raise LanguageModelError(
                f"the prompt has {ids.shape[1]} tokens and the answer up to {self.tokens}; {self.folder} reads {most} "
                "in all. List fewer sentences, or take a model that reads more."
            )
        how: dict[str, Any] = {"max_new_tokens": self.tokens, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            how["temperature"] = self.temperature
        ends = [self._words.pad_token_id, self._words.eos_token_id, self._model.config.eos_token_id, 0]
        pad = next(e for e in ends if isinstance(e, int))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = self._model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=pad, **how)
        return str(self._words.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


class Endpoint(LanguageModel):
    """A model behind `url`, which answers `POST url/chat/completions` as OpenAI's protocol has it.

    url: up to the version, such as `http://localhost:8000/v1`; nothing else is ever contacted, and no redirect is
    followed. model: its name there. key: sent as a bearer token, never shown. sees: whether it takes pictures. timeout:
    seconds that a whole answer may take. limit: bytes of it, at most. tokens, temperature: asked for.

    Raises `MissingExtra` without httpx, `ConfigError` for what is no address.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        sees: bool = False,
        timeout: float = 60.0,
        limit: int = 1 << 20,
        tokens: int = 256,
        temperature: float = 0.0,
    ):
        _check(tokens, temperature)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address; expected one such as http://localhost:8000/v1.")
        if not timeout > 0 or limit < 1:
            raise ConfigError(f"timeout is {timeout} and limit {limit}; expected seconds above 0 and at least a byte.")
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise missing_extra("httpx", "endpoint", "a language model behind an address") from error
        self.url, self.model, self.sees = url.rstrip("/"), model, sees
        self.timeout, self.limit, self.tokens, self.temperature = timeout, limit, tokens, temperature
        self._key, self._httpx = key, httpx

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r}, tokens={self.tokens}, temperature={self.temperature})"

    def complete(self, prompt: str, pictures: Sequence[np.ndarray] = (), seed: int = 0) -> str:
        """See `LanguageModel.complete`; raises `LanguageModelError` for whatever goes wrong on the way."""
        if len(pictures) and not self.sees:
            raise ConfigError("this endpoint was not said to take pictures: Endpoint(..., sees=True).")
        content: Any = prompt
        if len(pictures):
            shown = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
            content = [{"type": "text", "text": prompt}, *shown]
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "seed": seed}
        asked |= {"max_tokens": self.tokens, "temperature": self.temperature, "stream": False}
        data = self._post(asked)
        try:
            found = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise LanguageModelError(
                f"{self.url} answered {data[:200]!r}; expected JSON with choices[0].message.content. Is it an "
                "OpenAI-compatible endpoint, and does the address end with its version, such as /v1?"
            ) from error
        if not isinstance(found, str):
            raise LanguageModelError(f"{self.url} answered with content of type {type(found).__name__}; expected text.")
        return found

    def _post(self, asked: dict[str, Any]) -> bytes:
        httpx, until, data = self._httpx, time.monotonic() + self.timeout, bytearray()
        headers = {"Accept-Encoding": "identity"}  # so that the limit is one of what travels
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with (
                httpx.Client(timeout=self.timeout, follow_redirects=False, trust_env=False) as client,
                client.stream("POST", f"{self.url}/chat/completions", json=asked, headers=headers) as answer,
            ):
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > self.limit:
                        raise LanguageModelError(
                            f"{self.url} answered more than {self.limit:,} bytes; ask for fewer tokens, or raise limit."
                        )
                    if time.monotonic() > until:
                        raise LanguageModelError(f"{self.url} took more than {self.timeout} s; raise timeout.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise LanguageModelError(
                f"{self.url} did not answer within {self.timeout} s: {why}. Is the server running there?"
            ) from error
        if answer.status_code != 200:
            raise LanguageModelError(
                f"{self.url}/chat/completions answered {answer.status_code}: {bytes(data[:300])!r}. "
                "Look at the address, the name of the model, and the key."
            )
        return bytes(data)


def _check(tokens: int, temperature: float) -> None:
    if tokens < 1 or not temperature >= 0:
        raise ConfigError(f"tokens is {tokens} and temperature {temperature}; expected at least 1, and at least 0.")


def _data_url(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[..., :3])).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
