"""Named parts of a simulator's true state: read them, say in which unit they are, set one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArenaError, did_you_mean

Value = float | int | np.ndarray


@dataclass(frozen=True)
class Quantity:
    """One part of the true state, such as the positions of all pucks.

    **Law.** Quantities do not depend on one another: after one was set to a value, it reads as that value and all the
    others read as before, bit for bit. What is computed from them (a distance, a score) is therefore none.

    unit: in SI, or what is counted ("cells", "steps"); "1" for pure numbers. read: returns the value now, a number or
    an array whose shape is fixed while the state has as many things. write: sets it, given an array of the shape and
    type that `read` returns; it has checked nothing, so raise `ArenaError`, changing nothing, for what makes no state.
    fixed: why it cannot be set; then there is no `write`. low, high: what every number must lie between.
    """

    unit: str
    read: Callable[[], Any]
    write: Callable[[np.ndarray], None] | None = None
    fixed: str = ""
    low: float = -math.inf
    high: float = math.inf

    def value(self) -> Value:
        """Return the value, as a number or a copy that stays when the simulator goes on."""
        found = np.array(self.read())
        return found if found.ndim else found.item()


def attribute(owner: Any, name: str, unit: str, *, low: float = -math.inf, high: float = math.inf) -> Quantity:
    """Return the quantity that `owner` keeps as an array or number in an attribute, replaced when set."""

    def write(value: np.ndarray) -> None:
        setattr(owner, name, value if value.ndim else value.item())

    return Quantity(unit, lambda: getattr(owner, name), write, low=low, high=high)


def entry(
    array: Callable[[], np.ndarray], index: Any, unit: str, *, low: float = -math.inf, high: float = math.inf
) -> Quantity:
    """Return the quantity that is a part of an array, set in place."""

    def write(value: np.ndarray) -> None:
        array()[index] = value

    return Quantity(unit, lambda: array()[index], write, low=low, high=high)


def set_quantity(table: Mapping[str, Quantity], name: str, value: Any) -> None:
    """Set one quantity of a table.

    Raises `UnknownName` for a name that is not there, `ArenaError` for one that cannot be set, and for values of
    another shape, that are not finite or out of range, or no whole numbers where these are needed.
    """
    if name not in table:
        raise did_you_mean(name, table, "quantity")
    quantity = table[name]
    if quantity.write is None:
        able = ", ".join(repr(n) for n, q in table.items() if q.write) or "none"
        raise ArenaError(f"quantity {name!r} cannot be set: {quantity.fixed}. Quantities that can be set: {able}.")
    now = np.array(quantity.read())
    try:
        new = np.array(value, np.float64 if now.dtype.kind == "f" else None)
    except (TypeError, ValueError) as error:
        raise ArenaError(f"quantity {name!r} takes numbers of shape {now.shape}, not {value!r}.") from error
    if new.dtype.kind not in "biuf" or new.shape != now.shape:
        raise ArenaError(f"quantity {name!r} has shape {now.shape} in {quantity.unit}; received shape {new.shape}.")
    if not np.isfinite(new).all() or (new < quantity.low).any() or (new > quantity.high).any():
        raise ArenaError(
            f"quantity {name!r} takes finite numbers from {quantity.low:g} to {quantity.high:g} {quantity.unit}; "
            f"received {new.tolist()}."
        )
    exact = new.astype(now.dtype)
    if now.dtype.kind != "f" and (exact != new).any():
        raise ArenaError(f"quantity {name!r} takes whole numbers ({now.dtype}); received {new.tolist()}.")
    quantity.write(exact)
