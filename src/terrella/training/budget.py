"""How long to train: minutes or steps, and how far along that is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError

_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Either `seconds` of training or `steps` of the backbone; the other is None."""

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read `10m`, `90s`, `2h` or `5000steps`; raises `ConfigError`."""
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|steps?)\s*", text)
        if not match or float(match[1]) <= 0:
            raise ConfigError(f"budget is {text!r}; expected minutes or steps, such as 10m, 90s, 2h or 5000steps.")
        number, unit = float(match[1]), match[2]
        return cls(steps=max(1, int(number))) if unit.startswith("step") else cls(seconds=number * _UNITS[unit])

    def share(self, fraction: float) -> Budget:
        """Return a part of this budget."""
        if self.steps is not None:
            return Budget(steps=max(1, round(self.steps * fraction)))
        return Budget(seconds=(self.seconds or 0.0) * fraction)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget used, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / self.steps) if self.steps else 1.0
        used = seconds / max(self.seconds or 0.0, 1e-9)
        return min(1.0, used)
