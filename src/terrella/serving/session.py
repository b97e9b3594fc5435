"""One person's line through a world, in the world's own time: advance, rewind, fork, begin again.

A session remembers its past as keyframes (copies of its state, every few frames) and the actions in between. Rewinding
takes the keyframe before the wanted frame and gives the logged actions again. Noise is keyed by (seed, frame), so the
frame that comes back is the frame that was seen: bit for bit where sessions are stepped alone or by an exact engine,
within rounding where they share batches.

States are copied with `select` and not forked: a fork shares its past in pieces, whose number would grow with every
keyframe, and attention over other pieces rounds otherwise.

A session that is not played can be put away (`rest`): its state goes to the host, then to a store of snapshots, and
comes back by itself, with equal bits, when it is needed. With a `Record` it can be lived again after a crash.
"""

from __future__ import annotations

import copy
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..actions import decode
from ..engine import Frame, State
from ..errors import ConfigError, ServingError
from .catalogue import Served
from .journal import Past
from .limits import Limits
from .moment import Keyframe, Shot, gap
from .record import Record
from .slots import Slot
from .snapshots import first_key, next_key, parted_key
from .truth import Mark, Truth

log = logging.getLogger("terrella.serving")
FEWEST, MOST = 4, 512  # keyframes kept, whatever their size
RELIVED = 2000  # frames of a true environment that are played again when a session comes back


class Session:
    """A line of play in one world.

    `truth` runs beside it and is closed with it. `record` is told all that happens; `past` is one to go on from instead
    of beginning with `seed`. `key` names the past, see `snapshots`. `sound` turns false when a step failed half-way:
    such a session can only be closed. `notice` holds a sentence for the person when the true environment failed, until
    it is read. Raises `ServingError` for a frame out of reach, `WorldError` when the world predicts numbers that are
    not finite.
    """

    def __init__(
        self,
        served: Served,
        *,
        seed: int,
        truth: Truth | None,
        limits: Limits,
        steps: int | None = None,
        record: Record | None = None,
        past: Past | None = None,
    ) -> None:
        self.served = served
        self.truth = truth
        self.record = record
        self._asked = ""
        self.set_steps(steps)
        self.notice = ""
        self.sound = True
        self._limits = limits
        self._slot, self._aside = Slot(), None
        if past is None:
            self.begin(seed)
        else:
            self._return(past)

    def begin(self, seed: int) -> Shot:
        """Start from `seed`: frame 0 is the last frame of a context from the environment, or of a recorded one."""
        self.sound = False
        self.seed = seed
        self._log: list[tuple[np.ndarray, int | None]] = []
        self._keyframes: deque[Keyframe] = deque()
        self.from_environment = self.truth is not None and self._attempt_truth("begin", lambda t: t.begin(seed))
        if self.truth is not None and self.from_environment:
            observations, rows = self.truth.start()
        else:
            observations, rows = self.served.recorded(seed)
        return self._start(0, observations, rows)

    def set_steps(self, steps: int | None) -> None:
        """Take so many denoising steps from now on (None: the engine's choice); raises `ConfigError` if it cannot."""
        choices = self.served.world.decoder.choices
        if steps is not None and steps not in choices:
            raise ConfigError(f"steps is {steps}; {self.served.name!r} takes {', '.join(map(str, choices))}.")
        self.steps = steps

    def advance(self, row: np.ndarray) -> Shot:
        """Give one flat action row and return the next shot."""
        return advance_together([self], [row])[0]

    def rewind(self, frame: int) -> Shot:
        """Return to `frame` exactly and forget what came after it."""
        self._in_reach(frame)
        found = self._found(frame)  # first, since a store may not answer
        self.sound = False
        if self.record is not None:
            self.record.back(frame)
        self._replay(frame, *found)
        self._part()
        self.sound = True
        return self.shot

    def _found(self, frame: int) -> tuple[Keyframe, State, Shot]:
        """The keyframe before `frame`, loaded."""
        key = next(key for key in reversed(self._keyframes) if key.frame <= frame)
        return key, *self._loaded(key)

    def _replay(self, frame: int, key: Keyframe, state: State, shot: Shot) -> None:
        """Go on from the keyframe before `frame`, and give the actions since then again."""
        while self._keyframes[-1] is not key:
            self._keyframes.pop()
        self.shot, self.key = shot, key.key
        replay = self._log[key.frame - self.oldest : frame - self.oldest]
        del self._log[frame - self.oldest :]
        self._hold(state)
        if self.truth is not None:
            mark = key.truth
            if mark is None or not self._attempt_truth("go back", lambda t: t.back(mark)):
                self.truth = None
            elif self.shot.truth is None:
                self.shot = replace(self.shot, truth=mark.frame, gap=gap(self.shot.observation, mark.frame))
        for row, steps in replay:
            brought = self.served.slots.step([self._slot], np.asarray(row, np.float32)[None], steps)
            self._absorb(brought, row, steps)

    def recover(self) -> Shot:
        """Return to the present frame after a step of several sessions failed because of another one."""
        return self.rewind(self.shot.frame)

    def fork(self, frame: int | None = None) -> Session:
        """Return another session with this one's past, at `frame` or at the present; this one is left as it is."""
        self._in_reach(self.shot.frame if frame is None else frame)
        child = copy.copy(self)
        child._log, child._keyframes = list(self._log), deque(self._keyframes)
        child._slot, child._aside = self.served.slots.put(self.state()), None
        child.truth = child.record = None
        child._asked = ""
        child._part()
        try:
            child.truth = self.truth.fork(self.truth.mark()) if self.truth is not None else None
        except Exception as error:
            child.notice = _lost("be forked", error)
        if frame is not None and frame != self.shot.frame:
            child.rewind(frame)
        return child

    def state(self) -> State:
        """A copy of the present state."""
        return self.served.slots.read(self._seat())

    def sync(self) -> Shot:
        """Begin again from the true environment's last frames, keeping the count of frames."""
        if self.truth is None or self.truth.frame.ended:
            raise ServingError("there is no running true environment to take frames from; reset the session.")
        return self._start(self.shot.frame, *self.truth.start())

    def memory(self) -> np.ndarray | None:
        """Draw what the world remembers at the present frame, uint8 `(h, w, 1)`; None where memory is no map."""
        if self.served.map is None:
            return None
        maps = self.served.engine.picture(self.served.slots.look(self._seat()))
        return None if maps is None else maps[0, :, :, None]

    def possible(self, always: bool = False) -> tuple[str, ...] | None:
        """As of `Truth`; None without a true environment."""
        found: list[tuple[str, ...] | None] = [None]
        self._attempt_truth("tell what it can do", lambda t: found.append(t.possible(always)))
        return found[-1]

    @property
    def oldest(self) -> int:
        """The earliest frame that a rewind can reach."""
        return self._keyframes[0].frame

    @property
    def tier(self) -> str:
        """Where the state lies: in a `slot`, on the `host`, or on `disk`."""
        return "slot" if self._aside is None else "host" if isinstance(self._aside, State) else "disk"

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the state and the keyframes take."""
        own = self.served.slots.nbytes(self._slot) if self.tier == "slot" else 0
        own += self._aside.nbytes if isinstance(self._aside, State) else 0
        return own + sum(key.state.nbytes for key in self._keyframes if key.state is not None)

    def rest(self, tier: str) -> bool:
        """Put the state away, to the `host` or, with its keyframes, to `disk`; whether it is there now.

        A snapshot on its way to the disk takes a moment: ask again. Keyframes that have none are let go, so that a
        rewind plays more frames again.
        """
        if self._aside is None:
            self._aside = self.served.slots.read(self._slot).to("cpu")
            self.served.slots.free(self._slot)
        if tier != "disk" or isinstance(self._aside, str):
            return True
        store = self.served.store
        if store is None or self.record is None:
            return False
        if self._asked != self.key:  # also where another session with this past has one: that one may be closed
            self._asked = self.key
            self._keep(self._aside)
            return False
        if self.key not in store:
            return False
        mine = [key for key in self._keyframes if key.key in self.record.keys and key.key in store]
        kept = [replace(key, shot=None, state=None) for key in mine]
        kept = kept or [Keyframe(self.shot.frame, self.key)]
        del self._log[: kept[0].frame - self.oldest]
        self._keyframes, self._aside = deque(kept), self.key
        return True

    def wake(self) -> None:
        """Have the state where it can be stepped; raises `ServingError` where the store does not give it now."""
        self._seat()

    def close(self) -> None:
        """Free the state and the true environment."""
        self.served.slots.free(self._slot)
        if self.truth is not None:
            self.truth.close()
            self.truth = None

    def _start(self, frame: int, observations: dict[str, np.ndarray], rows: np.ndarray) -> Shot:
        self.sound = False
        self._hold(self.served.engine.start(observations, rows if rows.shape[1] else None, seeds=[self.seed]))
        seen = {name: observations[name][0, -1] for name in self.served.spec.modelled}
        score = self.shot.score if frame else 0.0
        self.shot = Shot(frame, seen, score=score, truth=self.truth.frame if self.truth else None)
        about = {name: repr(value) for name, value in sorted(self.served.settings.items())}
        about |= {"world": self.served.engine.fingerprint, "seed": self.seed, "frame": frame, "score": score}
        self.key = first_key(about, observations, rows)
        self._part()
        if self.record is not None:
            self.record.start(frame, self.key, self.seed)
        self._remember(keep=True)
        self.sound = True
        return self.shot

    def _return(self, past: Past) -> None:
        """Go on from a past of which snapshots are left."""
        store = self.served.store
        if store is None:
            raise ServingError("this server keeps no sessions; open a new one.")
        last = past.reach(store)
        lost = max((at for at in past.starts if past.kept[at] not in store), default=-1)
        frames = [at for at in sorted(past.kept) if lost < at <= last and past.kept[at] in store]
        self.seed, marks = past.seed, dict[int, Mark]()
        if self.truth is not None and last > RELIVED:
            self._drop_truth("come back", ServingError(f"{last} frames are too many to play again"))
        self._attempt_truth("come back", lambda truth: marks.update(truth.relive(past.seed, past.rows[:last], frames)))
        self.from_environment = self.truth is not None
        self._log = past.rows[frames[0] :]
        self._keyframes = deque(Keyframe(at, past.kept[at], truth=marks.get(at)) for at in frames)
        self._replay(past.frame, *self._found(past.frame))
        self._part()
        if self.record is not None:
            self.record.back(past.frame)

    def _loaded(self, key: Keyframe) -> tuple[State, Shot]:
        """A copy of a keyframe's state, on the engine's device, and what was shown."""
        if key.state is not None and key.shot is not None:
            return key.state.select([0]).to(self.served.engine.device), key.shot
        assert self.served.store is not None  # it was put there
        state, shown, numbers = self.served.store.get(key.key, self.served.engine)
        return state, Shot(observation=shown, **numbers)

    def _part(self) -> None:
        """Where frames depend on company by rounding, equal pasts are not equal states: give this one its own name."""
        if not self.served.repeats:
            self.key = parted_key(self.key, secrets.token_hex(8))

    def _seat(self) -> Slot:
        """Where the state lies; it is fetched if it was put away."""
        if self._aside is not None:
            began, tier = time.perf_counter(), self.tier
            if isinstance(self._aside, State):
                state = self._aside.select([0]).to(self.served.engine.device)  # a keeper may still be reading it
            else:
                state, _ = self._loaded(Keyframe(self.shot.frame, self._aside))
            self._hold(state)
            self.served.note_return(tier, time.perf_counter() - began)
        return self._slot

    def _keep(self, state: State) -> None:
        """Have a snapshot of the present frame kept; `state` is not touched again."""
        if self.record is not None:
            self.record.keep(self.shot.frame, self.key, state, self.shot.observation, self.shot.numbers())

    def _hold(self, state: State) -> None:
        """Go on from this state."""
        self.served.slots.free(self._slot)
        self._slot, self._aside = self.served.slots.put(state), None

    def _absorb(self, frame: Frame, row: np.ndarray, steps: int | None) -> Shot:
        """Take this session's share of what a step brought."""
        i = self._slot.row
        self._taken = int(frame.info["steps"][i]) if "steps" in frame.info else steps
        self.key = next_key(self.key, row, self._taken)
        spec = self.served.spec
        seen = {name: np.array(frame.observation[name][i]) for name in spec.modelled}
        reward, end = float(frame.reward[i]), float(frame.terminated[i])
        true = None
        if self.truth is not None and self._attempt_truth("step", lambda t: t.step(row)):
            true = self.truth.frame
        self.shot = Shot(
            frame=self.shot.frame + 1,
            observation=seen,
            reward=reward,
            score=self.shot.score + reward,
            end=end,
            ended=bool(frame.ended[i]),
            truth=true,
            gap=gap(seen, true) if true is not None and not true.ended else None,
            said=decode(spec.action, row) if spec.action.kind == "text" else "",
        )
        return self.shot

    def _remember(self, *, keep: bool = False) -> None:
        while self._keyframes and self._keyframes[-1].frame >= self.shot.frame:
            self._keyframes.pop()
        marks = list[Mark]()
        self._attempt_truth("save its state", lambda truth: marks.append(truth.mark()))
        state = self.state().to("cpu")
        self._keyframes.append(Keyframe(self.shot.frame, self.key, self.shot, state, *marks[:1]))
        if keep or self.shot.frame % self._limits.snapshot_every == 0:
            self._keep(state)
        most = min(max(self._limits.keyframe_bytes // state.nbytes, FEWEST), MOST)
        while len(self._keyframes) > most:
            gone = self._keyframes.popleft()
            del self._log[: self.oldest - gone.frame]

    def _in_reach(self, frame: int) -> None:
        if not self.oldest <= frame <= self.shot.frame:
            raise ServingError(
                f"frame {frame} is out of reach; this session remembers {self.oldest} to {self.shot.frame}."
            )

    def _attempt_truth(self, what: str, act: Callable[[Truth], object]) -> bool:
        """Let the environment do something; one that fails is dropped, and the world goes on alone."""
        if self.truth is None:
            return False
        try:
            act(self.truth)
        except Exception as error:
            self._drop_truth(what, error)
            return False
        return True

    def _drop_truth(self, what: str, error: Exception) -> None:
        self.notice = _lost(what, error)
        if self.truth is not None:
            try:
                self.truth.close()
            except Exception:
                log.debug("closing a failed environment failed", exc_info=True)
        self.truth = None


def advance_together(sessions: Sequence[Session], rows: Sequence[np.ndarray]) -> list[Shot]:
    """Take one frame in each of several sessions of one world that take equally many denoising steps.

    rows: flat actions `(W,)`, one a session. Frames are those that each would get alone, within rounding; bit for bit
    where the engine is exact. Raises what `Engine.step` raises, for all of them; `Session.recover` undoes that.
    """
    first = sessions[0]
    slots = [session._seat() for session in sessions]
    for session in sessions:
        session.sound = False
    stacked = np.asarray(np.stack(list(rows)), np.float32)
    frame = first.served.slots.step(slots, stacked, first.steps)
    shots = []
    for session, row in zip(sessions, rows):
        shot = session._absorb(frame, row, session.steps)
        session._log.append((row, session._taken))  # what a budget has chosen, too: a rewind gives the same frames
        if session.record is not None:
            session.record.act(row, session._taken, shot.mark())
        session.sound = True
        if shot.frame % session._limits.keyframe_every == 0:
            session._remember()
        shots.append(shot)
    return shots


def _lost(what: str, error: Exception) -> str:
    log.warning("the true environment could not %s", what, exc_info=error)
    return f"The true environment could not {what} ({type(error).__name__}); the world goes on without it."
