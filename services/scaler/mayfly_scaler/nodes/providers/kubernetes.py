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
from lightkube.core.exceptions import ConfigError
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.types import PatchType

from mayfly_scaler.nodes.drains import Numbering
from mayfly_scaler.nodes.providers.provider import ProviderError

_CONFLICT = 409
_ATTEMPTS = 5
_TIMEOUT = httpx2.Timeout(10.0)


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
        with _translated():
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
            with _translated():
                for _ in range(_ATTEMPTS):
                    replicas, revision = await self._read()
                    if (wanted := change(replicas)) == replicas or await self._write(wanted, revision):
                        return
        raise ProviderError(f"the replicas of {self._name} are changed by somebody else all the time")

    async def _read(self) -> tuple[int, str]:
        scale = await self._client.get(StatefulSet.Scale, self._name)
        assert scale.metadata is not None and scale.spec is not None
        return scale.spec.replicas or 0, scale.metadata.resourceVersion or ""

    async def _write(self, replicas: int, revision: str) -> bool:
        """False when it is no longer the revision that was read."""
        wanted = {"metadata": {"resourceVersion": revision}, "spec": {"replicas": replicas}}
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
    except (httpx2.HTTPError, msgspec.MsgspecError) as error:
        words = str(error).partition("\n")[0]
        raise ProviderError(f"Kubernetes: {words or type(error).__name__}") from error
