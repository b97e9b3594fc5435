"""What the HTTP API takes and gives: every number and length has bounds, and no field is unknown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .limits import Limits
from .protocol import BOUNDS, COUNT

LONGEST_ROW = 1024
LARGEST = 2.0**53  # beyond it float64 skips whole numbers
ID = r"^[A-Za-z0-9._-]{16,64}$"
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Row = Annotated[list[Number], Field(max_length=LONGEST_ROW)]
Words = Annotated[str, Field(max_length=Limits.text)]


def _whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Seed = Annotated[int, Field(ge=BOUNDS["seed"][0], le=BOUNDS["seed"][1]), BeforeValidator(_whole)]
At = Annotated[int, Field(ge=0, le=COUNT), BeforeValidator(_whole)]
Passes = Annotated[int, Field(ge=BOUNDS["steps"][0], le=BOUNDS["steps"][1]), BeforeValidator(_whole)]


class Taken(BaseModel):
    """What a client sends: no conversions, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewSession(Taken):
    """Which world to begin, from which seed, with how many denoising steps a frame, beside its environment or not."""

    world: Annotated[str, Field(min_length=1, max_length=Limits.text, description="A name from GET /v1/worlds.")]
    seed: Seed = 0
    steps: Passes | None = None
    truth: bool = False


class Steps(Taken):
    """Actions, one a frame: a row of numbers, a text, or null for nothing."""

    actions: Annotated[list[Row | Words | None], Field(min_length=1, max_length=Limits.steps_at_once)]


class Plans(Taken):
    """Plans to be imagined, of equally many actions, as of `Steps`; `last`: whether to show what they end with."""

    plans: Annotated[
        list[Annotated[list[Row | Words | None], Field(min_length=1, max_length=Limits.steps_at_once)]],
        Field(min_length=1, max_length=Limits.plans_at_once),
    ]
    last: bool = False


class Rewinding(Taken):
    """The frame to go back to."""

    frame: At


class Forking(Taken):
    """The frame to fork at; the present one by default."""

    frame: At | None = None


class Resetting(Taken):
    """A new seed, if there is to be one."""

    seed: Seed | None = None


class Pixels(BaseModel):
    """One stream of a frame; `data` in base64. `rgb` and `jpeg` have shape (h, w, 3), `float32` (n,), little endian."""

    format: Literal["rgb", "jpeg", "float32"]
    shape: list[int]
    data: str


class TrueSide(BaseModel):
    """What the true environment shows; `gap` is the mean absolute difference, 0 to 1 for images."""

    observation: dict[str, Pixels]
    picture: Pixels | None
    reward: float | None
    score: float | None
    ended: bool
    gap: float | None


class Shown(BaseModel):
    """One frame. `end` is the predicted chance that the episode ends here, `score` the sum of predicted rewards."""

    frame: int
    reward: float | None
    score: float | None
    end: float | None
    ended: bool
    observation: dict[str, Pixels]
    memory: Pixels | None
    truth: TrueSide | None


class SessionShown(BaseModel):
    """A session, or a snapshot of one: whoever knows its id may use it. Rewinding reaches frames from `oldest` on.

    Whoever knows `watch` may see it played: with `/#watch=...` the page shows every frame that is stepped.
    """

    id: str
    watch: str
    world: str
    seed: int
    start: Literal["environment", "recorded"]
    truth: bool
    oldest: int
    frame: Shown


class Frames(BaseModel):
    """The frames that the actions led to."""

    frames: list[Shown]


class FutureShown(BaseModel):
    """What a plan would bring, frame by frame: reward, and the chance that the episode ends there; its last frame."""

    reward: list[float]
    end: list[float]
    last: dict[str, Pixels] | None


class FuturesShown(BaseModel):
    """What the plans would bring, in their order."""

    futures: list[FutureShown]


class Worlds(BaseModel):
    """The worlds that are served, by name."""

    worlds: list[str]


class WorldShown(BaseModel):
    """A world: its streams, actions, keys, speed, card. `starts` recorded beginnings, of `context` actions each."""

    name: str
    about: dict[str, Any]
    starts: int
    context: int


class Problem(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
