"""Models of Hugging Face in folders on this machine: opened without a download, and without running code of theirs.

Weights are read from safetensors alone. What is used as it is does not travel with a world; `Origin` keeps the hash of
the folder it came from instead, and refuses another one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, WorldError, missing_extra

READ = ("config.json", "tokenizer.json")  # of a folder, beside its weights
MEMO = 8192  # sentences whose reading is remembered


def library(what: str) -> ModuleType:
    """Import transformers, which is optional and takes seconds; raises `MissingExtra`."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "text", what) from error
    return transformers


def require_folder(path: str, what: str) -> Path:
    """The folder that holds a model; raises `ConfigError` where there is none that can be read."""
    folder = Path(path)
    if not path or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{what} is to be read from the folder {path!r}, which has no config.json. Put the folder there (as "
            "save_pretrained writes it), or name another one by `path` (of a saved world: in its world.json); nothing "
            "is downloaded."
        )
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{what}: the folder {path!r} holds no *.safetensors. Weights in other formats can run code when they are "
            "read; save the model anew with save_pretrained."
        )
    return folder


def settings_of(path: str, what: str) -> Any:
    """Read a folder's config; raises `ConfigError` or `MissingExtra`."""
    return _read(library(what).AutoConfig, require_folder(path, what), what)


def model_of(path: str, what: str) -> Any:
    """Read a folder's model without its head, in float32; raises `ConfigError` or `MissingExtra`."""
    how = {"use_safetensors": True, "attn_implementation": "sdpa"}
    return _read(library(what).AutoModel, require_folder(path, what), what, **how).float().eval()


def tokenizer_of(path: str, what: str) -> Any:
    """Read a folder's tokenizer, as the package tokenizers has it; raises `ConfigError` or `MissingExtra`."""
    library(what)
    file = require_folder(path, what) / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"{what} reads sentences, but the folder {path!r} has no tokenizer.json.")
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _read(kind: Any, folder: Path, what: str, **how: Any) -> Any:
    try:
        with _quiet():
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{what}: the folder {str(folder)!r} cannot be read: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no remarks (such as on a head that is not read) while a folder is opened."""
    logging = library("a folder").utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class Origin(nn.Module):
    """Where weights come from that a world does not keep: a folder, and the hash of what was read from it.

    The hash travels with the world. Loading raises `WorldError` where the folder holds something else.
    """

    hash: Tensor

    def __init__(self, path: str | Path, weights: bool = True):
        super().__init__()
        self.path = str(path)
        self.register_buffer("hash", torch.tensor(list(_digest(Path(path), weights)), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        theirs = state_dict.get(f"{prefix}hash")
        if theirs is not None and not torch.equal(theirs.cpu(), self.hash.cpu()):
            raise WorldError(
                f"the folder {self.path!r} has the hash {_hex(self.hash)}, but the world was trained on one of hash "
                f"{_hex(theirs)}. Put back the model that it was trained on, or name its folder by `path`."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _digest(folder: Path, weights: bool) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    for file in sorted([*folder.glob("*.safetensors")] if weights else []) + [folder / name for name in READ]:
        if file.is_file():
            with file.open("rb") as opened:
                whole.update(file.name.encode() + hashlib.file_digest(opened, "blake2b").digest())
    return whole.digest()


def _hex(hash: Tensor) -> str:
    return bytes(hash.cpu().tolist()).hex()[:12]


def fix(model: nn.Module) -> nn.Module:
    """Turn weights that take no gradient into constants that no file holds and no optimiser sees."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not weight.requires_grad:
                delattr(module, name)
                module.register_buffer(name, weight.data, persistent=False)
    return model


class Memo:
    """What was made of each sentence, of the last `MEMO` ones: plain numbers, on the host.

    Sentences are text, and reading them needs the host; each is read by itself, once. So what is made of it depends
    on no other sentence of a batch. Copies of a world share it.
    """

    def __init__(self, make: Callable[[str], np.ndarray]):
        self.make, self.made = make, OrderedDict[bytes, np.ndarray]()

    def __deepcopy__(self, memo: Any) -> Memo:
        return self

    def __call__(self, codes_MW: Tensor) -> Tensor:
        """Look up M rows of bytes, padded with -1: `(M, *shape made)`."""
        rows, where = np.unique(codes_MW.detach().cpu().numpy(), axis=0, return_inverse=True)
        found = np.stack([self._of(row[row >= 0].astype(np.uint8).tobytes()) for row in rows])
        return torch.from_numpy(found[where.reshape(-1)]).to(codes_MW.device)

    def _of(self, said: bytes) -> np.ndarray:
        if said not in self.made:
            self.made[said] = self.make(said.decode("utf-8", "replace"))
            if len(self.made) > MEMO:
                self.made.popitem(last=False)
        self.made.move_to_end(said)
        return self.made[said]
