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
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from mayfly_proto.records import VersionSpec
from mayfly_registry import numbers, patterns, triggers
from mayfly_registry.allowed import NOTHING, Allowed
from mayfly_registry.errors import InvalidManifest
from mayfly_registry.problems import sentence, shown, wrong
from mayfly_registry.scaling import Provisioned, ScaleOn, Scaling
from mayfly_registry.triggers import STRICT, Trigger, allowed_by

FILENAME = "mayfly.toml"

ENV_LIMIT = 32 * 1024  # bytes, names and values together
RESERVED_ENV = ("MAYFLY_", "AWS_LAMBDA_")
CONNECT_LIMIT = 64
TRIGGERS_LIMIT = 100
LIST_LIMIT = 100

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HANDLER = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*:([A-Za-z_][A-Za-z0-9_]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"subject\.[1-9][0-9]?")
_HEADER = re.compile(r"(?!subject\.)[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


class Retries(BaseModel):
    model_config = STRICT

    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    backoff: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)] = 1.0
    max_backoff: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 300.0
    max_age: Annotated[float, Field(ge=1, le=2_592_000, allow_inf_nan=False)] = 21_600.0

    @model_validator(mode="after")
    def _grows(self) -> "Retries":
        if self.max_backoff < self.backoff:
            raise wrong(f"max_backoff {self.max_backoff:g} is below backoff, which is {self.backoff:g}")
        return self


class Batch(BaseModel):
    model_config = STRICT

    size: Annotated[int, Field(ge=1, le=10_000)] = 100
    window: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 1.0


class Settings(Scaling, BaseModel):
    """Every field's default is the one of `VersionSpec`; ``handler`` None: worked out from the package."""

    handler: str | None = None
    runtime: Literal["python"] = "python"
    memory: Annotated[int, Field(ge=16, le=10_240)] = 128
    timeout: Annotated[float, Field(ge=0.001, le=900, allow_inf_nan=False)] = 3.0
    idempotent: bool = False
    isolation: Literal["process"] = "process"
    payload: Literal["auto", "json", "text", "bytes"] = "auto"
    env: dict[str, str] = {}
    connect: Annotated[list[Annotated[int, Field(ge=1, le=65_535)]], Field(max_length=CONNECT_LIMIT)] = []
    triggers: Annotated[list[Trigger], Field(max_length=TRIGGERS_LIMIT)] = []
    retries: Retries = Retries()
    batch: Batch | None = None
    ordered: str = ""
    on_success: str = ""
    on_failure: str = ""
    publish: Annotated[list[str], Field(max_length=LIST_LIMIT)] = []
    call: Annotated[list[str], Field(max_length=LIST_LIMIT)] = []
    kv: Annotated[list[str], Field(max_length=LIST_LIMIT)] = []
    objects: Annotated[list[str], Field(max_length=LIST_LIMIT)] = []
    idempotency_ttl: Annotated[int, Field(ge=1, le=2_592_000)] = 86_400
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
            if port in allowed_by(info).platform_ports:
                raise wrong(f"{port} is the platform's own port: functions are kept out of it")
        return sorted(set(connect))

    @field_validator("triggers")
    @classmethod
    def _triggers(cls, given: list[Trigger]) -> list[Trigger]:
        if same := triggers.clash(given):
            raise wrong(same)
        return given

    @field_validator("ordered")
    @classmethod
    def _ordered(cls, ordered: str) -> str:
        if ordered and not (_TOKEN.fullmatch(ordered) or _HEADER.fullmatch(ordered)):
            raise wrong(f"{shown(ordered)} must be a token of the subject, as subject.3, or a header's name")
        return ordered

    @field_validator("on_success", "on_failure")
    @classmethod
    def _destination(cls, subject: str, info: ValidationInfo) -> str:
        if subject and not patterns.is_plain(subject):
            raise wrong(f"{shown(subject)} is no subject to publish to: {patterns.PLAIN_RULE}")
        if subject and (refused := allowed_by(info).publishing(subject)):
            raise wrong(f"{shown(subject)} {refused}")
        return subject

    @field_validator("publish")
    @classmethod
    def _publish(cls, publish: list[str], info: ValidationInfo) -> list[str]:
        for subject in publish:
            if not patterns.is_pattern(subject):
                raise wrong(f"{shown(subject)} is no subject: {patterns.RULE}")
            if refused := allowed_by(info).telling(subject):
                raise wrong(f"{shown(subject)} {refused}")
        return sorted(set(publish))

    @field_validator("call")
    @classmethod
    def _call(cls, call: list[str]) -> list[str]:
        for function in call:
            if not patterns.is_function_pattern(function):
                raise wrong(f"{shown(function)} names no functions: a name, or one with wildcards, as billing.*")
        return sorted(set(call))

    @field_validator("kv", "objects")
    @classmethod
    def _buckets(cls, buckets: list[str], info: ValidationInfo) -> list[str]:
        allowed = allowed_by(info)
        for bucket in buckets:
            if refused := (allowed.bucket if info.field_name == "kv" else allowed.objects)(bucket):
                raise wrong(f"{shown(bucket)} {refused}")
        return sorted(set(buckets))

    @field_validator("description")
    @classmethod
    def _description(cls, description: str) -> str:
        if _CONTROL.search(description):
            raise wrong("must be one line of text, without control characters")
        return description

    @model_validator(mode="after")
    def _order_or_batches(self) -> "Settings":
        if self.batch is not None and self.ordered:
            raise wrong("batch: does not go with ordered: events of one key would come together with others")
        return self


_FIELDS = frozenset(Settings.model_fields)
_TABLES: dict[str, type[BaseModel]] = {
    "triggers": Trigger,
    "retries": Retries,
    "batch": Batch,
    "provisioned": Provisioned,
    "scale_on": ScaleOn,
}


def check(given: Mapping[str, Any], allowed: Allowed = NOTHING) -> Settings:
    """The settings, or `InvalidManifest` with all that is wrong with them. A null means the default."""
    try:
        present = {field: value for field, value in given.items() if value is not None or field not in _FIELDS}
        return Settings.model_validate(present, context=allowed)
    except ValidationError as error:
        raise InvalidManifest([_sentence(problem) for problem in error.errors(include_url=False)]) from None


def _sentence(problem: ErrorDetails) -> str:
    model = _TABLES.get(str(problem["loc"][0]) if len(problem["loc"]) > 1 else "", Settings)
    return sentence(problem, list(model.model_fields))


def of_version(spec: VersionSpec) -> dict[str, Any]:
    """The settings that a version was made with, for `check` once more."""
    plain = msgspec.structs.replace(spec, triggers=numbers.without(spec.triggers))
    record = msgspec.to_builtins(plain)
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
