"""What the scaler says of shares, carried out at once for the functions that this router owns."""

from mayfly_proto import records
from mayfly_proto.records import Shares
from mayfly_router.dispatch import Dispatch
from mayfly_router.state import State


class Limits:
    def __init__(self, state: State, dispatch: Dispatch) -> None:
        self._state = state
        self._dispatch = dispatch

    def on_shares(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        now = self._state.clock()
        for name in self._state.allotments.hear(records.decode(payload, Shares), now):
            function = self._state.functions.get(name)
            if function is not None:
                self._dispatch.trim(function, now)
                if function.restless:
                    self._dispatch.touch(name)

    def every_second(self, now: float) -> None:
        """Forget callers who have not called for a while."""
        for rates in list(self._state.rates):
            rates.forget(now)
            if not rates.callers:
                self._state.rates.discard(rates)
