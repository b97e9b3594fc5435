"""Recording in several processes: each makes its own environment and sends back whole, compressed episodes.

Episodes are numbered, and each is recorded from its number alone; they are stored in order. The dataset is therefore
the same whatever the number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from .. import arenas, errors
from ..config import from_json, to_json
from ..errors import ArenaError, TerrellaError
from ..spec import WorldSpec
from .rollout import EpisodeRecorder, Goal, Plan
from .store import Layout, Packed
from .writer import Writer


class Crew:
    """Processes that record episodes on request; a context manager.

    They are forked where the system can, so that environments may come from any function; elsewhere what `plan` holds
    must be importable. A policy that computes with PyTorch may hang in a forked process: record it with one.
    """

    def __init__(self, plan: Plan, count: int) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        self._processes: dict[Connection, Any] = {}
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, plan), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
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
            connection.send((to_json(writer.layout), writer.level))
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
                idle.pop().send(todo.popleft())
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
            process.join()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, connection: Any) -> Any:
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[connection]
            process.join(5)
            raise ArenaError(f"a recording process died (exit code {process.exitcode}); try num_envs=1.") from None
        if kind == "error":
            name, text = value
            error = getattr(errors, name, None)
            raise error(text) if error else ArenaError(f"the environment failed while recording:\n{text}")
        return value


def _work(connection: Any, plan: Plan) -> None:
    """Serve requests for episodes until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
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


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
