"""The private parts of nats-py that the fast lane stands on.

When one of these fails, `mayfly_chassis.lane` must be read again beside the new nats-py.
"""

import asyncio
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from mayfly_chassis import lane


def test_nats_py_is_the_one_that_was_read() -> None:
    """2.16: another one may have other privates."""
    assert importlib.metadata.version("nats-py").startswith("2.16.")


async def test_the_client_has_the_attributes_the_fast_lane_uses() -> None:
    """Names and kinds of what we read and write."""
    client = Client()
    assert client._pending == []
    assert client._pending_data_size == 0
    assert client._sid == 0
    assert client._subs == {}
    assert client._pongs == []
    assert client._status == Client.DISCONNECTED
    assert client._client_id is None
    assert client._server_info == {}
    assert isinstance(client._ps, Parser)
    assert client._transport is None


@pytest.mark.parametrize("name", ["_read_loop", "_process_op_err", "_process_connect_init", "_attempt_reconnect"])
def test_the_client_has_the_coroutines_the_fast_lane_uses(name: str) -> None:
    """They exist and are coroutines."""
    assert inspect.iscoroutinefunction(getattr(Client, name))


def test_a_server_is_looked_at_before_it_gets_a_password() -> None:
    """``_process_info`` refuses a server without TLS: INFO is read there first, and CONNECT holds the password."""
    source = inspect.getsource(Client._process_connect_init)
    assert source.index("self._process_info(srv_info, initial_connection=True)") < source.index("_connect_command()")
    assert 'self.options["tls"] = tls' in inspect.getsource(Client.connect)


def test_the_read_loop_starts_when_a_connection_is_established() -> None:
    """The transport is taken over in ``_read_loop``: it must start last, TLS upgraded and PONG received."""
    source = inspect.getsource(Client._process_connect_init)
    assert source.index("connect_tls") < source.index("PING_PROTO") < source.index("self._read_loop()")


def test_pending_commands_are_replaced_as_a_whole_and_in_order() -> None:
    """nats-py's flusher writes all of ``_pending`` in order, as we do; both may take turns."""
    source = inspect.getsource(Client._flusher)
    assert "self._transport.writelines(self._pending[:])" in source
    assert "self._pending = []" in source
    assert inspect.iscoroutinefunction(Parser.parse)


def test_answers_to_pings_are_given_in_order_and_forgotten_on_reconnect() -> None:
    """Our flush puts a future of its own into ``_pongs``."""
    assert "future = self._pongs.pop(0)" in inspect.getsource(Client._process_pong)
    assert "future.set_result(True)" in inspect.getsource(Client._process_pong)
    assert "self._pongs = []" in inspect.getsource(Client._process_connect_init)


def test_subscriptions_are_replayed_from_the_table() -> None:
    """After a reconnect every entry of ``_subs`` is sent again with its id, subject and queue."""
    source = inspect.getsource(Client._attempt_reconnect)
    assert "prot_command.sub_cmd(sub._subject, sub._queue, sid)" in source
    assert source.index("sub_cmd(") < source.index("self._status = Client.CONNECTED")


@pytest.mark.parametrize("method", ["_attempt_reconnect", "_close"])
def test_a_subscription_of_ours_has_what_is_read_of_it(method: str) -> None:
    """Ten thousand functions must be neither ten thousand tasks nor ten thousand queues: ours are entries only."""
    read = set(re.findall(r"\bsub\.(\w+)", inspect.getsource(getattr(Client, method))))
    assert read
    assert [name for name in read if not hasattr(lane._Subscription("a", ""), name)] == []


def test_the_transport_shows_its_streams() -> None:
    """``_io_reader`` and ``_io_writer`` are asyncio streams, whose protocol is swapped."""
    transport = TcpTransport()
    assert transport._io_reader is None
    assert transport._io_writer is None
    assert "asyncio.open_connection" in inspect.getsource(TcpTransport.connect)
    assert {"transport"} <= set(dir(asyncio.StreamWriter))
    assert callable(asyncio.StreamReader._maybe_resume_transport)  # type: ignore[attr-defined]
    assert "_buffer" in inspect.getsource(asyncio.StreamReader.__init__)


def test_the_transport_is_ours_as_long_as_it_says_that_it_is_there() -> None:
    """nats-py makes another one only when ``not self._transport``; and its upgrade to TLS makes new streams."""
    source = inspect.getsource(Client._connect_to_server)
    assert source.index("if not self._transport:") < source.index("TcpTransport()")
    assert "self._io_reader, self._io_writer = reader, writer" in inspect.getsource(TcpTransport.connect_tls)
    assert "_over_ssl" in inspect.getsource(asyncio.StreamReaderProtocol.eof_received)
    assert bool(lane._Transport())


def test_aiohttp_is_not_imported_when_it_is_installed(tmp_path: Path) -> None:
    """nats-py imports it for WebSockets that nobody uses: 80 ms and 11 MB for every service."""
    (tmp_path / "aiohttp.py").write_text("raise SystemExit('aiohttp was imported')")
    code = "import mayfly_chassis.bus, sys; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, check=True, timeout=30)
