"""A subject that a suite asks about by name: measured by a class of its own, which the suite does not know.

Subjects make themselves known with `@register("subject", name)`, `name` being `Measurement.what`: situations that only
some environments have (`terrella.evaluation.situations`), and of what use a world is, which needs a planner and so
stands further on, where planning and evaluation may meet (`terrella.trials`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from .entrant import Entrant

if TYPE_CHECKING:
    from .measurements import Measurement
    from .suite import Ground


class Subject(ABC):
    """One subject. A final class has no settings; what it makes for all entrants alike it leaves in the ground.

    name: of the subject. note: what is measured, for the reader of a page.
    """

    name: ClassVar[str]
    note: ClassVar[str]

    @abstractmethod
    def missing(self, m: Measurement, ground: Ground) -> str | None:
        """Why the environment does not allow it, or None."""

    @abstractmethod
    def measure(
        self, m: Measurement, entrant: Entrant, ground: Ground, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """Measure one entrant: JSON values. advance: told how many of `m.frames` are done.

        Raises `EntrantError` or `WorldError` where the entrant fails.
        """

    @abstractmethod
    def line(self, row: dict[str, Any]) -> str:
        """Say what `measure` found of one entrant, in a line of plain text."""

    @abstractmethod
    def page(self, rows: dict[str, dict[str, Any]]) -> str:
        """Show what `measure` found, entrant -> its result, as HTML."""
