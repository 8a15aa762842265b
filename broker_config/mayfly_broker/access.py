"""What of the user's own in NATS functions may touch, beside ``event.>``: the setting that roles and registry follow.

A TOML file, ``access.toml`` beside the platform's data or named by ``mayfly up --access``:

    trigger_subjects = ["sensors.>", "orders.>"]
    publish_subjects = ["alerts.>"]
    kv_buckets = ["carts"]
    object_buckets = ["uploads"]

Everything is empty unless it is said: what a function can reach is never more than somebody has decided.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from mayfly_proto import storage

FILENAME = "access.toml"

_SUBJECT = re.compile(r"[^\s.*>]+(\.(\*|[^\s.*>]+))*(\.>)?")
_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OURS = ("mayfly", "fn", "async", "event", "result", "dlq", "log", "usage")


class InvalidAccess(Exception):
    """The file does not say what the setting can be; the message names the field and what would be right."""


def is_reserved(subject: str) -> bool:
    """Whether it is below what the platform or NATS has for itself."""
    first = subject.partition(".")[0]
    return first in _OURS or first.startswith(("$", "_"))


def _subject(subject: str) -> str:
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject!r} is no subject: words joined by dots, * for one of them, > for the rest")
    if is_reserved(subject):
        raise ValueError(f"{subject!r} is the platform's own or NATS's: name subjects of yours")
    return subject


def _bucket(bucket: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is no bucket's name: letters, digits, - and _")
    if bucket in (*storage.BUCKETS, *storage.OBJECT_STORES):
        raise ValueError(f"{bucket!r} is the platform's own: name buckets of yours")
    return bucket


Subject = Annotated[str, AfterValidator(_subject)]
Bucket = Annotated[str, AfterValidator(_bucket)]


class Access(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    trigger_subjects: tuple[Subject, ...] = ()  # of core NATS or of streams of the user's
    publish_subjects: tuple[Subject, ...] = ()
    kv_buckets: tuple[Bucket, ...] = ()
    object_buckets: tuple[Bucket, ...] = ()  # whose objects may trigger functions and be used by them


NOTHING = Access()


def read(path: Path) -> Access:
    """Raises `InvalidAccess`; a file that is not there says nothing."""
    try:
        return Access.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        return Access()
    except (OSError, ValueError) as error:
        problems = error.errors(include_url=False) if isinstance(error, ValidationError) else []
        named = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems]
        raise InvalidAccess(f"{path}: {'; '.join(named) or error}") from None


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject that ``subject`` (which may have wildcards) stands for is one of ``pattern``'s."""
    ours, theirs = pattern.split("."), subject.split(".")
    for index, word in enumerate(ours):
        if word == ">":
            return len(theirs) > index
        if index >= len(theirs) or theirs[index] == ">" or word not in ("*", theirs[index]):
            return False
    return len(ours) == len(theirs)
