"""Pods of a StatefulSet: a node is a pod, its number the ordinal, and what is changed is the number of replicas.

A StatefulSet takes away the highest ordinal and no other, so only that one can be removed. The number is changed by
compare-and-set on what was read just before: where somebody else changes it too (`kubectl scale`, a roll-out), nobody's
change is lost, and what they want is what is listed next time.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.types import PatchType

from mayfly_scaler.nodes.drains import Numbering
from mayfly_scaler.nodes.providers.provider import ProviderError

_CONFLICT = 409
_ATTEMPTS = 5
_TIMEOUT = httpx2.Timeout(10.0)

# lightkube takes answers, token files and what login commands print for well-formed: where they are not, Python's own
# errors come out of it.
_FAILURES = (httpx2.HTTPError, msgspec.MsgspecError, ConfigError, OSError, ValueError, LookupError, TypeError)


class KubernetesNodes:
    """Finds its cluster as kubectl does: in the pod's service account, else in $KUBECONFIG."""

    own_processors = True
    from_the_end = True

    def __init__(self, namespace: str, stateful_set: str) -> None:
        self.numbering = Numbering(f"{stateful_set}-", first=0)
        self._name = stateful_set
        self._one_at_a_time = asyncio.Lock()
        try:
            self._client = AsyncClient(namespace=namespace, timeout=_TIMEOUT)
        except (ConfigError, OSError, KeyError) as error:
            raise ProviderError(f"no Kubernetes cluster is configured here: {error}") from error

    async def list(self) -> frozenset[str]:
        replicas, _ = await self._read()
        return frozenset(map(self.numbering.name, range(replicas)))

    async def add(self, node: str) -> None:
        """With all those below it."""
        await self._scale(lambda replicas: max(replicas, self.numbering.number(node) + 1))

    async def remove(self, node: str) -> None:
        """Raises `ProviderError` for one that is not the last: another would go in its place."""

        def without(replicas: int) -> int:
            number = self.numbering.number(node)
            if number < replicas - 1:
                last = self.numbering.name(replicas - 1)
                raise ProviderError(f"{node} cannot be taken away before {last}")
            return min(replicas, number)

        await self._scale(without)

    async def close(self) -> None:
        await self._client.close()

    async def _scale(self, change: Callable[[int], int]) -> None:
        async with self._one_at_a_time:
            for _ in range(_ATTEMPTS):
                replicas, revision = await self._read()
                if (wanted := change(replicas)) == replicas or await self._write(wanted, revision):
                    return
        raise ProviderError(f"the replicas of {self._name} are changed by somebody else all the time")

    async def _read(self) -> tuple[int, str]:
        with _translated():
            scale = await self._client.get(StatefulSet.Scale, self._name)
        if scale.metadata is None or scale.spec is None:
            raise ProviderError(f"Kubernetes: the answer to how {self._name} is scaled does not say it")
        return scale.spec.replicas or 0, scale.metadata.resourceVersion or ""

    async def _write(self, replicas: int, revision: str) -> bool:
        """False when it is no longer the revision that was read."""
        wanted = {"metadata": {"resourceVersion": revision}, "spec": {"replicas": replicas}}
        with _translated():
            try:
                await self._client.patch(StatefulSet.Scale, self._name, wanted, patch_type=PatchType.MERGE)
            except httpx2.HTTPStatusError as error:
                if error.response.status_code == _CONFLICT:
                    return False
                raise
        return True


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise ProviderError(f"Kubernetes: {_words(error)}") from error


def _words(error: Exception) -> str:
    """What the cluster says; of a refusal without words, or with words that lightkube could not read, the status."""
    refusal: BaseException | None = error
    while refusal is not None and not _speaks(refusal):
        refusal = refusal.__context__
    words = str(refusal or error).partition("\n")[0]
    return words or type(error).__name__


def _speaks(error: BaseException) -> bool:
    return bool(error.status.message) if isinstance(error, ApiError) else isinstance(error, httpx2.HTTPError)
