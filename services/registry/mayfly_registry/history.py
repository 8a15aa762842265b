"""How a function's record changes: which version is current, which can be called, which only rolled back to.

The record is the truth about what was published: a version that it does not name is half-made, or was let go.
"""

from mayfly_proto.records import FunctionRecord
from mayfly_registry.errors import NotFound

CALLABLE = 10  # so many of the newest, and the current one


def published(record: FunctionRecord | None, name: str, version: int, keep: int) -> FunctionRecord:
    """After ``version`` was published. It becomes current unless somebody has published a higher one meanwhile.

    ``keep``: how many versions stay at all, at least `CALLABLE` + 1; the oldest are let go.
    """
    if record is None:
        return FunctionRecord(name=name, current=version, versions=[version])
    newest = max(everything(record))
    current = version if version > newest else record.current
    return _arranged(record, current, [*everything(record), version], keep)


def rolled_back(record: FunctionRecord, version: int) -> FunctionRecord:
    """With ``version`` as the current one. Raises `NotFound`."""
    check(record, version)
    return _arranged(record, version, everything(record), keep=0)


def check(record: FunctionRecord, version: int) -> None:
    """Raises `NotFound` unless ``version`` was published and is still there."""
    if version not in everything(record):
        raise NotFound(f"function {record.name} has no version {version}: it has {_listing(everything(record))}")


def before(record: FunctionRecord) -> int:
    """The highest version below the current one. Raises `NotFound`."""
    lower = [version for version in everything(record) if version < record.current]
    if not lower:
        raise NotFound(f"function {record.name} has no version before {record.current}")
    return max(lower)


def everything(record: FunctionRecord) -> list[int]:
    """All published versions that are still there, oldest first."""
    return sorted({*record.older, *record.versions, record.current})


def _arranged(record: FunctionRecord, current: int, versions: list[int], keep: int) -> FunctionRecord:
    """``keep`` 0: all. A function that is paused stays so."""
    ordered = sorted(set(versions))
    newest = {*ordered[-CALLABLE:], current}
    older = [version for version in ordered if version not in newest]
    room = max(keep - len(newest), 0) if keep else len(older)
    return FunctionRecord(
        name=record.name,
        current=current,
        versions=[version for version in ordered if version in newest],
        older=older[len(older) - room :] if room < len(older) else older,
        paused=record.paused,
    )


def _listing(versions: list[int]) -> str:
    if len(versions) > CALLABLE:
        return f"{versions[0]} to {versions[-1]}"
    return ", ".join(map(str, versions))
