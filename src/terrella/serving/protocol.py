"""What a page and a server say to each other: JSON text for control, binary messages for frames.

A client begins with `hello` and then opens sessions, each with a number that all later messages carry. Every frame of a
session arrives as its parts (one binary message a stream, see `header`), closed by one `tick` in JSON; the client
answers with `ack` once it has shown it. No session runs more than `Limits.window` frames ahead of its acks.

A session's epoch grows whenever its past changes (reset, rewind), so that late frames of the old past are told apart.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from ..config import from_json, to_json
from ..errors import ConfigError, ServingError
from .limits import Limits

PROTOCOL = 1
DEFAULT = Limits()

COUNT = 2**32 - 1
BOUNDS: dict[str, tuple[float, float]] = {
    "protocol": (0, COUNT),
    "session": (0, 255),
    "req": (0, COUNT),
    "seed": (0, 2**31 - 1),
    "steps": (1, 64),
    "fps": (0.5, Limits.max_fps),
    "seq": (0, COUNT),
    "epoch": (0, COUNT),
    "frame": (0, COUNT),
    "n": (1, Limits.steps_at_once),
}
"""Least and most of every number that a client sends, by the field's name."""
TEXTS = ("text", "world", "token", "resume")  # fields of at most `Limits.text` characters

POLICY, TOO_BIG, INTERNAL, FULL, UNAUTHORISED, VERSION, IDLE, MOVED = 1008, 1009, 1011, 1013, 4001, 4002, 4004, 4005


@dataclass(frozen=True)
class Hello:
    """First message. `resume`: the token of a session to be reopened or watched: a cluster's gateway looks for it.

    `codecs`: those in which the client can show images, best first; of these the server takes the first it has, and
    where that is `h264`, which is for large images, the next for all others.
    """

    protocol: int
    token: str | None = None
    resume: str | None = None
    codecs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Open:
    """Begin a session, paused: which world, from which seed, with the true environment beside it or not."""

    world: str
    seed: int = 0
    truth: bool = True
    steps: int | None = None
    fps: float | None = None
    req: int = 0


@dataclass(frozen=True)
class Reopen:
    """Go on with a session that this connection lost: the token that came with its `opened`."""

    token: str
    req: int = 0


@dataclass(frozen=True)
class Watch:
    """See what somebody plays: `watch` of their `opened`. What comes has a number here, for `ack` and `close` alone."""

    token: str
    req: int = 0


@dataclass(frozen=True)
class Action:
    """What is held from now on: a row, a text, or neither for nothing. `seq` counts up; frames name the last used."""

    session: int
    seq: int
    row: tuple[float, ...] | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.row is not None and self.text is not None:
            raise ServingError("an action has a row or a text, not both.")


@dataclass(frozen=True)
class Ack:
    """The client has shown this frame."""

    session: int
    epoch: int
    frame: int


@dataclass(frozen=True)
class Pause:
    """Stop the clock."""

    session: int


@dataclass(frozen=True)
class Resume:
    """Let the clock run."""

    session: int


@dataclass(frozen=True)
class Step:
    """Advance a paused session by `n` frames."""

    session: int
    n: int = 1


@dataclass(frozen=True)
class Reset:
    """Begin again, with a new seed if one is given."""

    session: int
    seed: int | None = None


@dataclass(frozen=True)
class Rewind:
    """Go back to exactly this frame; what came after it is forgotten."""

    session: int
    frame: int


@dataclass(frozen=True)
class Fork:
    """Open another session that shares this one's past, from the present or from an earlier frame.

    `share`: open none, but keep that moment for others; answered by `shared`.
    """

    session: int
    frame: int | None = None
    req: int = 0
    share: bool = False


@dataclass(frozen=True)
class Sync:
    """Put the true environment's last frames in place of the world's own."""

    session: int


@dataclass(frozen=True)
class Set:
    """Change how a session runs: frames a second, denoising steps, waiting for actions, stopping at a predicted end."""

    session: int
    fps: float | None = None
    steps: int | None = None
    turns: bool | None = None
    stop_at_end: bool | None = None


@dataclass(frozen=True)
class Close:
    """End a session and free what it held."""

    session: int


Message = (
    Hello | Open | Reopen | Watch | Action | Ack | Pause | Resume | Step | Reset | Rewind | Fork | Sync | Set | Close
)
MESSAGES: dict[str, type] = {  # by their `type`
    kind.__name__.lower(): kind
    for kind in (Hello, Open, Reopen, Watch, Action, Ack, Pause, Resume, Step, Reset, Rewind, Fork, Sync, Set, Close)
}


def parse(text: str, limits: Limits = DEFAULT) -> Message:
    """Read one message of a client; raises `ServingError` for anything but a well-formed one.

    Fields are checked by name, type and range; unknown ones are refused. Whether a session or a world of that name
    exists, and whether a row fits the world's actions, is for the receiver to say.
    """
    if len(text.encode("utf-8", "replace")) > limits.message_bytes:
        raise ServingError(f"a message may have {limits.message_bytes} bytes; send less at once.")
    try:
        data = json.loads(text, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise ServingError("a message is one JSON object without NaN or Infinity.") from error
    if not isinstance(data, dict):
        raise ServingError("a message is one JSON object with a 'type'.")
    kind = data.pop("type", None)
    if not isinstance(kind, str) or kind not in MESSAGES:
        raise ServingError(f"unknown type {str(kind)[:40]!r}; expected one of {', '.join(MESSAGES)}.")
    try:
        message = from_json(MESSAGES[kind], data, kind)
    except (ConfigError, OverflowError) as error:
        raise ServingError(str(error)[:300]) from error
    for name in TEXTS:
        value = getattr(message, name, None)
        if isinstance(value, str) and len(value) > limits.text:
            raise ServingError(f"{kind}.{name} has {len(value)} characters; at most {limits.text} are allowed.")
    for name, (low, high) in BOUNDS.items():
        value = getattr(message, name, None)
        if value is not None and not low <= value <= high:
            raise ServingError(f"{kind}.{name} is {value!r:.40}; expected {low} to {high}.")
    return message


@dataclass(frozen=True)
class Welcome:
    """Answer to `hello`: limits, the names of the worlds and the one to show first.

    `codec` is the one in which large images will come, of the `codecs` that the server has.
    """

    protocol: int
    limits: Limits
    worlds: tuple[str, ...]
    default: str
    codec: str = "jpeg"
    codecs: tuple[str, ...] = ("jpeg",)


@dataclass(frozen=True)
class Moved:
    """Connect to this address instead, with the same `hello`; null: to where you connected at first.

    A cluster's gateway answers `hello` so; a server does when the sessions of this connection are to be reopened there.
    """

    url: str | None = None


@dataclass(frozen=True)
class Opened:
    """A session exists; its first frame follows. `about` describes the world, `start` where its context is from.

    `about["sentences"]` are what one may well say, where actions are texts. `about["map"]` is null, or what there is to
    know of the map that comes with every frame: `height`, `width` and `outline`, the corners `[x, y]` of what is in
    view, right and down in cells (none where it is not known). `token` is for `reopen`, null where the server keeps no
    sessions; `watch` is for others to say `watch` with, who get the same with `watching`, and no token.
    """

    session: int
    world: str
    about: dict[str, Any]
    seed: int
    start: str
    truth: bool
    parent: int | None = None
    req: int = 0
    token: str | None = None
    watch: str = ""
    watching: bool = False


@dataclass(frozen=True)
class Shared:
    """A moment is kept: whoever says `reopen` with this token begins a session of their own there, again and again."""

    token: str
    req: int = 0


@dataclass(frozen=True)
class TrueTick:
    """The true environment's side of a tick; `gap` is the mean absolute difference, 0 to 1 for images."""

    reward: float
    score: float
    ended: bool
    gap: float | None


@dataclass(frozen=True)
class Tick:
    """Closes a frame whose parts came just before. `end` is the predicted chance that the episode ends here.

    `late_ms` after its time the frame was there, `late` if that is more than a frame; `together` sessions were stepped
    as one batch, of the `running` ones on this server. `said` is the sentence that led to this frame, where actions are
    texts ("" at first); `possible` are sentences that the true environment could carry out from here, null where they
    are as before or nobody knows.
    """

    session: int
    epoch: int
    frame: int
    oldest: int
    seq: int
    reward: float
    score: float
    end: float
    ended: bool
    replayed: bool
    late: bool
    step_ms: float
    late_ms: float = 0.0
    together: int = 1
    running: int = 0
    truth: TrueTick | None = None
    said: str = ""
    possible: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Status:
    """How a session runs, sent after every change. `reason` says why it stopped, if it did so by itself.

    `watched`: by so many others.
    """

    session: int
    running: bool
    turns: bool
    fps: float
    steps: int | None
    stop_at_end: bool
    seed: int
    reason: str = ""
    watched: int = 0


@dataclass(frozen=True)
class Closed:
    """A session is gone; with a reason when the client did not ask for it."""

    session: int
    reason: str = ""


@dataclass(frozen=True)
class Error:
    """A message was refused. `fatal` ones are followed by the connection's end."""

    code: str
    message: str
    session: int | None = None
    req: int = 0
    fatal: bool = False


ANSWERS: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Welcome, Moved, Opened, Shared, Tick, Status, Closed, Error)
}
"""What a server says, by its `type`."""


def dump(message: Any) -> str:
    """Write a server's message as JSON text, `type` first; numbers that JSON lacks become null."""
    body = {"type": type(message).__name__.lower(), **to_json(message)}
    return json.dumps(_finite(body), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(name)
