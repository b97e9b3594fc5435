"""Tokens drawn one after another, and the same all at once: Jacobi iteration.

Token i is drawn given those before it, which takes a call of the network for each. As noise belongs to a token and not
to a call, the frame is the fixed point of

    value_i = draw(i; values before i)        for all i

so all tokens can be guessed and drawn at once, each given the guesses before it, until nothing changes. After k rounds
the first k tokens are what they would be one after another; mostly far fewer rounds than tokens suffice. A round costs
as many rows as there are tokens, read against one past.

Ref: Song et al., arXiv 2002.03629 (feed-forward computation as a system of equations, solved by Jacobi iteration).
Differs: the backbone sees a frame as a whole, so each token has a row of its own, in which what follows is hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[Tensor, Tensor], Tensor]
"""`(values (R, N, G), shown (R, N)) -> values` that each row would draw for all tokens, given those that are shown."""


def one_by_one(draw: Draw, start_BNG: Tensor) -> Tensor:
    """Draw N tokens in order, `(B, N, G)`, in N calls."""
    values, tokens = start_BNG, start_BNG.shape[1]
    place = torch.arange(tokens, device=values.device)
    for i in range(tokens):
        drawn = draw(values, (place < i).expand(len(values), -1))
        values = torch.where((place == i)[:, None], drawn, values)
    return values


def jacobi(draw: Draw, start_BNG: Tensor) -> Tensor:
    """Draw the same tokens all at once, `(B, N, G)`, in as many calls as it takes until nothing changes.

    A call has `B * N` rows, those of a session side by side.
    """
    values, tokens = start_BNG, start_BNG.shape[1]
    place = torch.arange(tokens, device=values.device)
    before = (place < place[:, None]).repeat(len(values), 1)  # row i of a session shows the tokens before i
    for _ in range(tokens):
        drawn = draw(values.repeat_interleave(tokens, 0), before).unflatten(0, (-1, tokens))
        new = drawn.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # from row i, token i
        if torch.equal(new, values):
            break
        values = new
    return values
