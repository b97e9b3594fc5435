"""Recording in several processes: each makes its own environment and sends back whole, compressed episodes.

Episodes are numbered, and each is recorded from its number alone; they are stored in order. The dataset is therefore
the same whatever the number of processes.

The processes are fresh interpreters, neither forks (which hang when the parent has threads or an open window) nor
`multiprocessing` spawns (which run the caller's script again). The plan travels by cloudpickle, between our own
processes only: functions of a script or notebook may make the environment or choose actions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError
from types import TracebackType
from typing import Any, Protocol

import gymnasium as gym
from gymnasium.vector.utils import CloudpickleWrapper

from .. import arenas, errors
from ..config import from_json, to_json
from ..errors import ArenaError, TerrellaError, UnknownName
from ..spec import EnvSpec, WorldSpec
from .rollout import EpisodeRecorder, Goal, Plan
from .store import Layout, Packed
from .writer import Writer


class Process(Protocol):
    """What can be ended, and waited for; its exit code is 0 where it went well."""

    def terminate(self) -> None:
        """End it."""
        ...

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        ...


Start = Callable[[], tuple[Any, Process]]
"""Begins a process that runs `work`; returns a connection to it, and the process."""


class Crew:
    """Processes that record episodes on request; a context manager. `start` begins one, on this machine by default.

    An environment registered by a script is known to them, for the plan carries its registration.
    Raises `ArenaError` when a process dies or its environment fails.
    """

    def __init__(self, plan: Plan, count: int, start: Start | None = None) -> None:
        if os.name != "posix":
            raise ArenaError("several processes are supported on Linux and macOS only; record with num_envs=1.")
        self._processes: dict[Any, Process] = {}

        parcel = _pickled(plan)
        try:
            for _ in range(count):
                connection, process = (start or _start)()
                self._processes[connection] = process
                self._send(connection, sys.path)
                self._send(connection, parcel)
            first, *others = [from_json(WorldSpec, self._receive(c)) for c in self._processes]
        except BaseException:
            self.close()
            raise
        if any(to_json(other) != to_json(first) for other in others):
            self.close()
            raise ArenaError("the environment is not the same in each process; make it from fixed arguments.")
        self.spec = first

    def run(self, writer: Writer, goal: Goal, on_episode: Callable[[int], None]) -> None:
        """Record until the goal is reached; `on_episode` gets the transitions of each stored episode."""
        for connection in self._processes:
            self._send(connection, (to_json(writer.layout), writer.level))
        ahead = 4 * len(self._processes)  # more would fill the memory when one episode is very long
        idle, todo = list(self._processes), deque[tuple[int, int | None]]()
        done: dict[int, Packed] = {}
        asked = writer.episodes
        last = None if goal.episodes is None else asked + goal.episodes
        while not goal.reached(writer):
            while len(todo) < len(idle) and asked < writer.episodes + ahead and (last is None or asked < last):
                todo.append((asked, goal.steps_left(writer)))
                asked += 1
            while idle and todo:
                self._send(idle.pop(), todo.popleft())
            busy: Any = wait([c for c in self._processes if c not in idle])
            for connection in busy:
                number, packed = self._receive(connection)
                idle.append(connection)
                done[number] = packed
            while writer.episodes in done and not goal.reached(writer):
                number = writer.episodes
                packed, left = done.pop(number), goal.steps_left(writer)
                if left is not None and packed.steps > left:  # asked for when more was left
                    todo.appendleft((number, left))
                    break
                writer.commit(packed)
                on_episode(packed.steps)

    def close(self) -> None:
        """End the processes."""
        for connection, process in self._processes.items():
            process.terminate()
            connection.close()
        for process in self._processes.values():
            process.wait()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, connection: Any, value: Any) -> None:
        try:
            if isinstance(value, memoryview):  # pickled already
                connection.send_bytes(value)
            else:
                connection.send(value)
        except BrokenPipeError:  # it said why before it went
            self._receive(connection)

    def _receive(self, connection: Any) -> Any:
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError):
            code = self._processes[connection].wait()
            raise ArenaError(
                f"a recording process died (exit code {code}); see its output, or use num_envs=1."
            ) from None
        if kind == "error":
            name, text = value
            error = getattr(errors, name, None)
            raise error(text) if error else ArenaError(f"the environment failed while recording:\n{text}")
        return value


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start an interpreter that runs `work` at the other end of a pipe."""
    ours, theirs = Pipe()
    code = "import sys; from terrella.data.workers import work; work(int(sys.argv[1]))"
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": search},
        start_new_session=True,  # Ctrl-C is for the parent, which decides what it means
    )
    theirs.close()
    return ours, process


def _pickled(plan: Plan) -> Any:
    """The plan, and how Gymnasium makes its environment if that has an id."""
    name = plan.env.id if isinstance(plan.env, EnvSpec) else plan.env
    registration = gym.registry.get(name) if isinstance(name, str) else None

    def parcel() -> Any:
        return plan, registration

    try:
        return ForkingPickler.dumps(CloudpickleWrapper(parcel))  # type: ignore[arg-type]
    except (PicklingError, TypeError, AttributeError) as error:
        raise ArenaError(
            f"the environment or policy cannot be sent to another process: {error}. Record with num_envs=1, or use "
            "functions that hold no open files, windows or locks."
        ) from error


def work(descriptor: int) -> None:
    """Serve requests for episodes through a pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Any = Connection(descriptor)
    try:
        sys.path[:] = connection.recv()
        plan, registration = connection.recv()()
        try:
            env = arenas.make(plan.env, **plan.make)
        except UnknownName:
            if registration is None:
                raise
            gym.registry[registration.id] = registration
            env = arenas.make(plan.env, **plan.make)
        recorder = EpisodeRecorder(env, arenas.describe(env), plan)
        connection.send(("value", to_json(recorder.spec)))
        layout, level = connection.recv()
        layout = from_json(Layout, layout)
        while True:
            number, limit = connection.recv()
            connection.send(("value", (number, recorder.record(number, layout, level, limit))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except TerrellaError as error:
        connection.send(("error", (type(error).__name__, str(error))))
    except Exception:
        connection.send(("error", ("", traceback.format_exc())))
