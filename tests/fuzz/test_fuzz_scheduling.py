"""Random programs of callbacks, timers and handles: the same order, the same handles, the same end of a run.

All timers of a step are due before the loop looks at them, so that their order does not depend on the machine's speed.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, rule
from twins import Twins, World, examples, outcome, shown

ENDS = {"ValueError": ValueError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "Odd": None}
# Microseconds from the beginning of a step, and how long all of them take.
DUE = st.integers(-50, 50)
ALL_DUE = 100e-6

# What a callback does: a tree.
actions = st.recursive(
    st.tuples(st.sampled_from(["soon", "threadsafe", "past", "due", "resolve"]), DUE, st.just([])),
    lambda children: st.tuples(
        st.sampled_from(["soon", "threadsafe", "past", "due", "resolve", "task", "stop", "cancel", "cancel_next"]),
        DUE,
        st.lists(children, max_size=3),
    ),
    max_leaves=6,
)


class Odd(BaseException):
    """Neither an Exception nor an end of the program."""


class Scheduling(Twins):
    """Everything that is scheduled on one loop is one subject."""

    handles: Any = Bundle("handles")

    @initialize(debug=st.booleans())
    def begin(self, debug: bool) -> None:
        self.steps = 0
        for world in self.worlds:
            world.loop.set_debug(debug)
            world.things["base"] = 0.0
            world.things["due"] = 0

    # ------------------------------------------------------------------------------------------------- callbacks

    def perform(self, world: World, label: str, tree: Any) -> None:
        kind, number, then = tree
        loop, handles = world.loop, world.things

        def called(*args: Any) -> None:
            world.note("order", "called", label, number, *args)
            for index, other in enumerate(then):
                self.perform(world, f"{label}.{index}", other)

        async def task() -> None:
            called()

        match kind:
            case "soon":
                handles[label] = loop.call_soon(called)
            case "threadsafe":
                handles[label] = loop.call_soon_threadsafe(called, 1)
            case "past":
                handles[label] = loop.call_later(number - 1000, called, 1, 2)
            case "due":
                handles[label] = loop.call_at(self.due(world, number), called)
            case "resolve":
                future = loop.create_future()
                future.add_done_callback(lambda _: called())
                future.set_result(None)
            case "task":
                world.tasks[label] = loop.create_task(task())
            case "stop":
                loop.stop()
            case "cancel" | "cancel_next":
                # A relative of this callback, which may not exist yet, have run, or be about to.
                root, _, last = label.rpartition(".")
                other = root if kind == "cancel" else f"{root}.{int(last or 0) + 1}"
                if hasattr(handles.get(other), "cancel"):
                    handles[other].cancel()

    def due(self, world: World, number: int) -> float:
        """A time of the loop that differs from all others, so that there is one order."""
        world.things["due"] += 1
        return world.things["base"] + (number + world.things["due"] / 1000) / 1e6

    def step(self, function: Any, inside: bool) -> None:
        def act(world: World) -> Any:
            world.things["base"] = world.loop.time()
            world.things["due"] = 0
            try:
                return function(world)
            finally:
                while world.loop.time() < world.things["base"] + ALL_DUE:
                    time.sleep(0)

        self.both(act, subject="order", inside=inside)

    @rule(target=handles, trees=st.lists(actions, min_size=1, max_size=4), inside=st.booleans())
    def schedule(self, trees: Any, inside: bool) -> str:
        label = self.name("run")

        def act(world: World) -> None:
            for index, tree in enumerate(trees):
                self.perform(world, f"{label}.{index}", tree)

        self.step(act, inside)
        return f"{label}.0"

    @rule(error=st.sampled_from(list(ENDS)), trees=st.lists(actions, max_size=3), by_timer=st.booleans())
    def fail(self, error: str, trees: Any, by_timer: bool) -> None:
        """A callback raises, with others before and after it."""
        label = self.name("fail")

        def act(world: World) -> None:
            def failing() -> None:
                raise ENDS[error] or Odd

            for index, tree in enumerate(trees):
                self.perform(world, f"{label}.{index}", tree)
                if index == 0:
                    world.loop.call_at(self.due(world, 0), failing) if by_timer else world.loop.call_soon(failing)

        self.step(act, False)

    # ------------------------------------------------------------------------------------------------- handles

    @rule(
        target=handles,
        kind=st.sampled_from(["later", "at", "infinite", "soon"]),
        seconds=st.integers(500, 1000),
        context=st.booleans(),
    )
    def keep(self, kind: str, seconds: int, context: bool) -> str:
        """A handle that does not come to be run, but "soon"."""
        label = self.name("kept")
        options = {"context": contextvars.Context()} if context else {}

        def act(world: World) -> None:
            loop = world.loop

            def note(*args: Any) -> None:
                world.note("order", label, *args)

            match kind:
                case "later":
                    handle = loop.call_later(seconds, note, 1, **options)
                case "at":
                    handle = loop.call_at(loop.time() + seconds, note, 1, 2, **options)
                case "infinite":
                    handle = loop.call_at(float("inf"), note, **options)
                case _:
                    handle = loop.call_soon(note, *range(seconds % 7), **options)
            world.things[label] = handle

        self.both(act, subject="order")
        return label

    @rule(handle=handles, times=st.integers(1, 2), inside=st.booleans())
    def cancel(self, handle: str, times: int, inside: bool) -> None:
        def act(world: World) -> Any:
            if handle not in world.things:
                return "none"
            return [(world.things[handle].cancel(), world.things[handle].cancelled()) for _ in range(times)]

        self.both(act, subject="order", inside=inside)

    @rule(handle=handles, other=handles)
    def look(self, handle: str, other: str) -> None:
        def act(world: World) -> Any:
            one, two = world.things.get(handle), world.things.get(other)
            if one is None or two is None:
                return "none"
            answers = [
                one.cancelled(),
                one == two,
                one != two,
                outcome(lambda: hash(one) == hash(two) or one is not two),
                "cancelled" in repr(one),
                isinstance(one, type(two)) == isinstance(two, type(one)),
                hasattr(one, "when"),
            ]
            # Times of this step and of others: some hundred seconds apart, or the same handle.
            if hasattr(one, "when") and hasattr(two, "when") and (one is two or abs(one.when() - two.when()) > 0.9):
                answers += [outcome(lambda: one < two), outcome(lambda: one >= two)]
            return answers

        self.both(act, subject="order")

    # ------------------------------------------------------------------------------------------------- runs

    @rule(value=st.sampled_from(["result", "error", "cancel", "stop"]), turns=st.integers(0, 3))
    def run_to_an_end(self, value: str, turns: int) -> None:
        def act(world: World) -> Any:
            async def main() -> Any:
                for _ in range(turns):
                    await asyncio.sleep(0)
                    world.note("order", "turn")
                match value:
                    case "error":
                        raise LookupError
                    case "cancel":
                        raise asyncio.CancelledError
                    case "stop":
                        world.loop.stop()
                        await asyncio.sleep(0)
                return "result"

            try:
                return world.loop.run_until_complete(main())
            except asyncio.CancelledError as exc:
                return shown(exc)

        self.both(act, subject="order")

    @rule(method=st.sampled_from(["run_forever", "close", "run_until_complete"]))
    def misuse_while_running(self, method: str) -> None:
        def act(world: World) -> Any:
            arguments = (world.loop.create_future(),) if method == "run_until_complete" else ()
            return getattr(world.loop, method)(*arguments)

        self.both(act, subject="order", inside=True)

    def teardown(self) -> None:
        for world in self.worlds:
            for handle in world.things.values():
                if hasattr(handle, "cancel"):
                    handle.cancel()
        super().teardown()
        # A closed loop answers the same, too.
        for calls in (
            lambda loop: loop.call_soon(print),
            lambda loop: loop.call_later(1, print),
            lambda loop: loop.call_soon_threadsafe(print),
            lambda loop: loop.run_forever(),
            lambda loop: loop.stop(),
            lambda loop: loop.close(),
            lambda loop: (loop.is_closed(), loop.is_running()),
        ):
            answers = [outcome(calls, world.loop) for world in self.worlds]
            assert answers[0] == answers[1]


TestScheduling = Scheduling.TestCase
TestScheduling.settings = examples(40)
