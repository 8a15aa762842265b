"""What a user may say about a function: ``[functions.<name>]`` of ``mayfly.toml``, checked.

`Settings` has the user's own field names. `check` reports every problem at once, each as one sentence that names the
field, its value and what would be right; the values of environment variables are never repeated.
"""

import keyword
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from mayfly_proto import records
from mayfly_proto.records import VersionSpec
from mayfly_registry import http_paths
from mayfly_registry.errors import InvalidManifest
from mayfly_registry.problems import sentence, shown, wrong

FILENAME = "mayfly.toml"

ENV_LIMIT = 32 * 1024  # bytes, names and values together
RESERVED_ENV = ("MAYFLY_", "AWS_LAMBDA_")
CONNECT_LIMIT = 64
TRIGGERS_LIMIT = 100

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HANDLER = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*:([A-Za-z_][A-Za-z0-9_]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Trigger(_Model):
    http: str
    methods: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _known_kind(cls, given: Any) -> Any:
        if isinstance(given, dict) and "http" not in given:
            kind = next((key for key in given if key not in cls.model_fields), None)
            named = f"{shown(kind)} is no kind of trigger here" if kind else "says no kind of trigger"
            raise wrong(f'{named}: http is one, as in {{ http = "/orders/{{id}}" }}')
        return given

    @field_validator("http")
    @classmethod
    def _template(cls, http: str) -> str:
        try:
            http_paths.shape(http)
        except http_paths.InvalidPath as error:
            raise wrong(f"{shown(http)} {error}") from None
        return http

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: list[str]) -> list[str]:
        for method in methods:
            if method.upper() not in http_paths.METHODS:
                raise wrong(f"{shown(method)} is no HTTP method: one of {', '.join(http_paths.METHODS)}")
        return sorted({method.upper() for method in methods})


class Settings(_Model):
    """Every field's default is the one of `VersionSpec`; ``handler`` None: worked out from the package."""

    handler: str | None = None
    runtime: Literal["python"] = "python"
    memory: Annotated[int, Field(ge=16, le=10_240)] = 128
    timeout: Annotated[float, Field(ge=0.001, le=900, allow_inf_nan=False)] = 3.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 1
    min_instances: Annotated[int, Field(ge=0, le=1000)] = 0
    max_instances: Annotated[int, Field(ge=1, le=1000)] = 100
    keep_alive: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 90.0
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    activation: Literal["balanced", "eager"] = "balanced"
    idempotent: bool = False
    isolation: Literal["process"] = "process"
    payload: Literal["auto", "json", "text", "bytes"] = "auto"
    env: dict[str, str] = {}
    connect: Annotated[list[Annotated[int, Field(ge=1, le=65_535)]], Field(max_length=CONNECT_LIMIT)] = []
    triggers: Annotated[list[Trigger], Field(max_length=TRIGGERS_LIMIT)] = []
    description: Annotated[str, Field(max_length=1024)] = ""

    @field_validator("handler")
    @classmethod
    def _handler(cls, handler: str | None) -> str | None:
        found = _HANDLER.fullmatch(handler) if handler is not None else None
        if handler is not None and (found is None or keyword.iskeyword(found[2])):
            raise wrong(f"{shown(handler)} must be module:function, for example main:handler")
        return handler

    @field_validator("env")
    @classmethod
    def _env(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not _ENV_NAME.fullmatch(name):
                raise wrong(f"{shown(name)} is no variable's name: letters, digits and _, not a digit first")
            if name.startswith(RESERVED_ENV):
                raise wrong(f"{name} is reserved: names must not start with {' or '.join(RESERVED_ENV)}")
            if "\0" in value:
                raise wrong(f"the value of {name} holds a NUL character")
        size = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
        if size > ENV_LIMIT:
            raise wrong(f"{size} bytes, names and values together: at most {ENV_LIMIT}")
        return env

    @field_validator("connect")
    @classmethod
    def _connect(cls, connect: list[int], info: ValidationInfo) -> list[int]:
        for port in connect:
            if port in (info.context or ()):
                raise wrong(f"{port} is the platform's own port: functions are kept out of it")
        return sorted(set(connect))

    @field_validator("triggers")
    @classmethod
    def _triggers(cls, triggers: list[Trigger]) -> list[Trigger]:
        as_records = [records.Trigger(http=trigger.http, methods=trigger.methods) for trigger in triggers]
        for index, trigger in enumerate(as_records):
            for other in as_records[:index]:
                if http_paths.overlap(trigger, other):
                    both = f"{http_paths.describe(other)} and {http_paths.describe(trigger)}"
                    raise wrong(f"{both} take the same requests: leave one of them out")
        return triggers

    @field_validator("description")
    @classmethod
    def _description(cls, description: str) -> str:
        if _CONTROL.search(description):
            raise wrong("must be one line of text, without control characters")
        return description

    @model_validator(mode="after")
    def _limits_agree(self) -> "Settings":
        if self.min_instances > self.max_instances:
            raise wrong(f"min_instances: {self.min_instances} is above max_instances, which is {self.max_instances}")
        return self


def check(given: Mapping[str, Any], platform_ports: frozenset[int] = frozenset()) -> Settings:
    """The settings, or `InvalidManifest` with all that is wrong with them. A null means the default."""
    try:
        present = {field: value for field, value in given.items() if value is not None}
        return Settings.model_validate(present, context=platform_ports)
    except ValidationError as error:
        raise InvalidManifest([_sentence(problem) for problem in error.errors(include_url=False)]) from None


def _sentence(problem: ErrorDetails) -> str:
    model = Trigger if problem["loc"][:1] == ("triggers",) else Settings
    return sentence(problem, list(model.model_fields))


def of_version(spec: VersionSpec) -> dict[str, Any]:
    """The settings that a version was made with, for `check` once more."""
    record = msgspec.to_builtins(spec)
    return {field: record[field] for field in Settings.model_fields}


def read(text: str, function: str) -> dict[str, Any]:
    """One function's table of a ``mayfly.toml``, unchecked. Raises `InvalidManifest`."""
    try:
        tables = tomllib.loads(text).get("functions")
    except (ValueError, RecursionError) as error:
        raise InvalidManifest([f"{FILENAME}: {error}"]) from None
    table: Any = tables
    quoted = isinstance(tables, dict) and function in tables  # [functions."billing.charge"]
    for part in [function] if quoted else function.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise InvalidManifest([f"{FILENAME}: has no table [functions.{function}]"])
    return table
