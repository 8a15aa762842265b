"""Templates: one process a version that has imported its code, kept for as long as that pays.

The first start of a version shows what its import costs. Where that is little, a spare of the zygote starts as fast as
any template would. Where it is more, a template is built in the background, one at a time, and later starts are forked
from it. A version whose import does not survive a fork says so once and is started the plain way.

What a fork copies before it has joined its own control group is charged to its template's, and stays so for as long as
it lives. So the limit of a template grows with what is forked from it: at its limit the kernel would kill it, and all
its instances with it.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from msgspec import Raw

from mayfly_worker.instance_listener import Exit, Launch, Listener
from mayfly_worker.instance_process import Process
from mayfly_worker.zygote_forks import ForkServer

_WORTH_MS = 25.0  # an import well below it gains nothing, and may seem slow on a busy machine
_KEPT = 8
_LIFE_S = 900.0  # what was read at import (time, credentials, addresses) gets no older
_LARGEST_MB = 300.0  # a fork's time grows with it
_FORK_MB = 4  # at most charged to the template: 1.5 of a small one, 2 of one that has 300 MB
_FORKS_AHEAD = 32  # that the limit has room for when it is raised
_REMEMBERED = 1000

Key = tuple[str, int, str]
Build = Callable[[Launch, Listener], tuple[Process, ForkServer]]


class Template(Listener):
    """One template, and the listener of its process."""

    def __init__(self, key: Key, templates: "Templates") -> None:
        self.key = key
        self.built_at = time.monotonic()
        self.process: Process | None = None
        self.forks: ForkServer | None = None
        self._templates = templates
        self._room = 0  # forks that the limit of its group allows for

    def serve(self, memory_mb: int) -> ForkServer:
        """For one fork more. ``memory_mb``: what the template itself may use. Raises ``OSError``."""
        assert self.process is not None and self.forks is not None
        if self.process.group is not None and self.forks.alive >= self._room:
            room = self.forks.alive + _FORKS_AHEAD
            self.process.group.limit(memory_mb + room * _FORK_MB)
            self._room = room
        return self.forks

    def on_ready(self, phases_ms: dict[str, float]) -> None:
        self._templates.built(self)

    def on_init_error(self, message: str, traceback: str) -> None:
        self._templates.unsuitable(self, message)

    def on_exit(self, exit: Exit) -> None:
        if self.forks is not None:
            self.forks.close()
        self._templates.gone(self, exit)

    def on_result(self, call: int, content_type: int, extra_headers: bytes | None, payload: bytes) -> None: ...
    def on_error(self, call: int, kind: str, message: str, traceback: str) -> None: ...
    def on_log(self, stream: str, invocation: str, lines: bytes) -> None: ...
    def on_ask(self, ask: int, call: int, verb: str, arguments: Raw, payload: bytes) -> None: ...


class Templates:
    """`build` starts a template's process. Raises ``OSError``."""

    def __init__(self, build: Build, log: structlog.typing.FilteringBoundLogger) -> None:
        self._build = build
        self._log = log
        self._building: Template | None = None
        self._ready: dict[Key, Template] = {}  # least recently used first
        self._retired: list[Template] = []
        self._unsuitable: set[Key] = set()

    def find(self, launch: Launch) -> Template | None:
        """What to fork an instance of this version from, if anything."""
        template = self._ready.pop(_key(launch), None)
        if template is None or template.forks is None or template.forks.died.is_set():
            return None
        if time.monotonic() - template.built_at > _LIFE_S:
            self._retire(template)
            return None
        self._ready[template.key] = template
        return template

    def consider(self, launch: Launch, import_ms: float) -> None:
        """After a start that imported: a template may be worth it."""
        key = _key(launch)
        known = key in self._unsuitable or key in self._ready
        if import_ms < _WORTH_MS or known or self._building is not None:
            return
        template = Template(key, self)
        try:
            template.process, template.forks = self._build(replace(launch, instance="template"), template)
        except OSError as error:
            self._log.warning("template.failed", function=key[0], version=key[1], error=str(error))
            return
        self._building = template

    def built(self, template: Template) -> None:
        self._building = None
        resident_mb = template.process.resident_mb() if template.process else 0.0
        if resident_mb > _LARGEST_MB:
            self.unsuitable(template, f"it takes {resident_mb:.0f} MB")
            self._retire(template)
            return
        self._ready[template.key] = template
        name, version, _ = template.key
        self._log.info("template.ready", function=name, version=version, memory_mb=round(resident_mb, 1))
        if len(self._ready) > _KEPT:
            self._retire(self._ready.pop(next(iter(self._ready))))

    def unsuitable(self, template: Template, reason: str) -> None:
        if len(self._unsuitable) >= _REMEMBERED:
            self._unsuitable.clear()
        self._unsuitable.add(template.key)
        name, version, _ = template.key
        self._log.warning("template.unsuitable", function=name, version=version, reason=reason)

    def gone(self, template: Template, exit: Exit) -> None:
        if self._building is template:
            self._building = None
        if self._ready.get(template.key) is template:
            del self._ready[template.key]
            if exit.signal is not None or exit.code is not None:  # else it went with the zygote
                self._report(template, exit)
        if template in self._retired:
            self._retired.remove(template)

    def release(self) -> None:
        """Ends those that are out of use: a template lives as long as what was forked from it."""
        for template in list(self._retired):
            if template.process is not None and template.forks is not None and not template.forks.alive:
                template.process.kill()

    def _report(self, template: Template, exit: Exit) -> None:
        name, version, _ = template.key
        self._log.error(
            "template.died",
            function=name,
            version=version,
            code=exit.code,
            signal=exit.signal,
            out_of_memory=exit.out_of_memory,
        )

    def _retire(self, template: Template) -> None:
        self._retired.append(template)
        self.release()


def _key(launch: Launch) -> Key:
    return launch.spec.name, launch.spec.version, str(launch.code)
