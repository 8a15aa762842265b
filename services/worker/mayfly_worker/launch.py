"""From an accepted start to a running process: the version's record, its code, then the runtime."""

import structlog

from mayfly_chassis.errors import BusError, ObjectError
from mayfly_proto.errors import CallError, ErrorType
from mayfly_worker import replies
from mayfly_worker.archive import BadPackage
from mayfly_worker.keeper import Keeper
from mayfly_worker.packages import Packages
from mayfly_worker.specs import NoSuchVersion, Specs


class Launcher:
    def __init__(self, specs: Specs, packages: Packages, log: structlog.typing.FilteringBoundLogger) -> None:
        self._specs = specs
        self._packages = packages
        self._log = log

    async def launch(self, keeper: Keeper) -> None:
        """Never raises: whatever goes wrong is this one instance's failure."""
        try:
            await self._launch(keeper)
        except (NoSuchVersion, ObjectError, BadPackage) as error:
            keeper.abandon(_error(ErrorType.INIT_FAILED, str(error)))
        except BusError as error:
            keeper.abandon(_error(ErrorType.UNAVAILABLE, f"the code could not be fetched: {error}"))
        except Exception:  # noqa: BLE001 - a task's boundary: one instance fails, not the worker
            self._log.exception("launch.failed", instance=keeper.instance.id)
            keeper.abandon(_error(ErrorType.INTERNAL, "internal error"))

    async def _launch(self, keeper: Keeper) -> None:
        group = keeper.instance.group
        spec = await self._specs.get(group.function, group.version)
        code = await self._packages.acquire(spec.package)
        if keeper.wanted:
            keeper.launch(spec, code)
        else:
            self._packages.release(spec.package)
            keeper.abandon(None)


def _error(kind: ErrorType, sentence: str) -> CallError:
    return CallError(kind, sentence, component=replies.COMPONENT)
