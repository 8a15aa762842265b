"""Which functions have an instance started before their next call comes, and when.

Each function with a window has one timer. It is set to the next moment at which its window may begin or end and looks
then: a function that was called meanwhile has fallen idle later than when it was set, so its window comes later too.
That makes one look in the length of a pause, and none on the way of a call. A pause has one window; what nobody came
for leaves at its end, and does not come back by itself.
"""

from heapq import heappop, heappush
from typing import NamedTuple

from mayfly_router import wishes
from mayfly_router.function import Function
from mayfly_router.wishes import Window


class Changes(NamedTuple):
    begun: list[Function]  # they are to have one now
    used: list[Function]  # somebody came
    unused: list[Function]  # nobody did, and it is over


class _Watch:
    __slots__ = ("due", "function", "window")

    def __init__(self, function: Function, window: Window) -> None:
        self.function = function
        self.window = window
        self.due = 0.0


class PreWarm:
    def __init__(self) -> None:
        self._watched: dict[str, _Watch] = {}
        self._due: list[tuple[float, str]] = []  # a heap; an entry counts while its watch says the same
        self._warm: set[str] = set()  # in their window

    def follow(self, function: Function, now: float) -> None:
        """A function is new here, or its target or its current version is another one."""
        name, pool = function.name, function.current
        wanted = wishes.window(pool.spec, function.target) if pool is not None and not function.left else None
        watch = self._watched.get(name)
        if wanted is None:
            self._drop(name)
        elif watch is None or watch.function is not function or watch.window != wanted:
            self._watched[name] = watch = _Watch(function, wanted)
            self._look_at(name, watch, now)

    def look(self, now: float) -> Changes:
        """What has come to be due."""
        changes = Changes([], [], [])
        for name in list(self._warm):
            function, window = self._watched[name].function, self._watched[name].window
            idle_since = function.gaps.idle_since
            if not window.holds(idle_since, now):
                self._cool(name)
                (changes.unused if window.missed(idle_since, now) else changes.used).append(function)
        while self._due and self._due[0][0] <= now:
            due, name = heappop(self._due)
            due_watch = self._watched.get(name)
            if due_watch is not None and due_watch.due == due:
                self._turn(name, due_watch, now, changes)
        return changes

    def _turn(self, name: str, watch: _Watch, now: float, changes: Changes) -> None:
        function = watch.function
        if function.left:
            self._drop(name)
            return
        idle_since = function.gaps.idle_since
        self._look_at(name, watch, watch.window.next_begin(idle_since, now))
        if not function.warm and watch.window.holds(idle_since, now):
            function.warm = True
            self._warm.add(name)
            changes.begun.append(function)

    def _look_at(self, name: str, watch: _Watch, due: float) -> None:
        watch.due = due
        heappush(self._due, (due, name))

    def _drop(self, name: str) -> None:
        self._cool(name)
        self._watched.pop(name, None)

    def _cool(self, name: str) -> None:
        if name in self._warm:
            self._warm.discard(name)
            self._watched[name].function.warm = False

    def __len__(self) -> int:
        return len(self._watched)

    def __repr__(self) -> str:
        return f"<PreWarm {len(self._watched)} watched, in their window: {sorted(self._warm)}>"
