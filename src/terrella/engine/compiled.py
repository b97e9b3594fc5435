"""The same frames from compiled graphs, for batch sizes named beforehand.

Each function of a `Stepper` becomes one graph of static shapes for each of these sizes. Memory of another form, such as
that of branches that still share their past, is handled as before. Compiling takes up to a minute a graph, so it is
asked for, and what a step needs is compiled ahead; where it cannot be done, a warning says why and frames are made as
before.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..nn.latents import Outcome
from ..nn.slabs import Slabs
from .stepper import Drawn, Stepper


class CompiledStepper:
    """A `Stepper` whose functions are compiled for the batch sizes `batches`; other calls go to `plain`."""

    def __init__(self, plain: Stepper, batches: Collection[int]):
        self.plain, self.batches = plain, frozenset(batches)
        self._graphs: dict[tuple[str, int, bool], Callable[..., Any] | None] = {}  # None: could not be compiled

    @property
    def steps(self) -> int:
        """See `Stepper`."""
        return self.plain.steps

    def commit(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor, level: float
    ) -> tuple[Slabs, Outcome]:
        """See `Stepper.commit`; frames that were seen are few, and not worth compiling for."""
        return self.plain.commit(slabs, seeds_B, row_BW, z_BNZ, level)

    def draw(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, observe: bool = True, guidance_B: Tensor | None = None
    ) -> Drawn:
        """See `Stepper.draw`; guided frames pass the network as twice the batch, and are not compiled."""
        if guidance_B is not None:
            return self.plain.draw(slabs, seeds_B, row_BW, observe, guidance_B)
        return self._run("draw", slabs, seeds_B, row_BW, observe=observe)

    def commit_dreamed(self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor) -> tuple[Slabs, Outcome]:
        """See `Stepper.commit_dreamed`."""
        return self._run("commit_dreamed", slabs, seeds_B, row_BW, z_BNZ)

    def commit_and_draw(
        self, slabs: Slabs, seeds_B: Tensor, row_BW: Tensor, z_BNZ: Tensor, next_BW: Tensor, observe: bool = True
    ) -> tuple[Slabs, Outcome, Drawn]:
        """See `Stepper.commit_and_draw`."""
        return self._run("commit_and_draw", slabs, seeds_B, row_BW, z_BNZ, next_BW, observe=observe)

    def _run(self, name: str, slabs: Slabs, *tensors: Tensor, **how: bool) -> Any:
        plain = getattr(self.plain, name)
        key = name, slabs.batch, how.get("observe", True)
        one_ring = all(s.filled is None and not s.shared for s in slabs.segments)
        if not one_ring or slabs.batch not in self.batches or self._graphs.get(key, plain) is None:
            return plain(slabs, *tensors, **how)
        first = key not in self._graphs
        graph = self._graphs[key] = _graph(plain) if first else self._graphs[key]
        assert graph is not None
        # What an earlier call derived from the memory would be an input, too, and ask for another graph.
        bare = Slabs(slabs.spec, slabs.recurrent, slabs.segments, slabs.time)
        try:
            return graph(bare, *tensors, **how)
        except Exception as error:
            if not first:
                raise
            self._graphs[key] = None
            why = str(error).strip().split("\n")[0]
            warnings.warn(f"frames cannot be compiled here ({why}); they are made without.", stacklevel=2)
            return plain(slabs, *tensors, **how)


@torch.inference_mode()
def warm(stepper: Stepper | CompiledStepper, blank: Slabs, width: int) -> None:
    """Take a step in sessions that nobody will use, so that its graphs are compiled. width: of actions, W."""
    row = torch.zeros(blank.batch, width, device=blank.time.device)
    drawn = stepper.draw(blank, blank.time, row)
    stepper.commit_dreamed(blank, blank.time, row, drawn.z_BNZ)


def _graph(method: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a method of a `Stepper`, apart from all other batch sizes and engines."""
    function: Any = getattr(method, "__func__")  # noqa: B009  (pyright knows only plain callables)
    # Graphs hang on code objects, a few on each: every graph gets one of its own.
    own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    own.__defaults__, own.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return torch.compile(types.MethodType(own, method.__self__), dynamic=False, fullgraph=True)  # pyright: ignore
