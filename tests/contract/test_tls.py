"""TLS to a real nats-server on the checked-in cluster file, with an authority made by ``deploy/make-secrets``."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import mayfly
from mayfly.cli import joining
from mayfly.launcher import ports
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ServiceConfig
from mayfly_chassis.errors import ConnectFailed, NoResponders, Untrusted
from mayfly_chassis.service import Chassis, running
from mayfly_proto import headers
from tests.conftest import Eventually
from tests.contract.own_server import PASSWORDS, alone, make_certificates, own_server


@asynccontextmanager
async def nothing(_chassis: Chassis, _config: ServiceConfig) -> AsyncIterator[None]:
    """A service that does nothing."""
    yield


@dataclass(frozen=True)
class Encrypted:
    address: str
    secrets: Path

    @property
    def url(self) -> str:
        return f"tls://{self.address}"

    @property
    def ca_file(self) -> Path:
        return self.secrets / "ca.crt"

    async def connect(self, url: str | None = None, ca_file: Path | None = None) -> Bus:
        return await Bus.connect(
            url or self.url,
            name="test",
            role="operator",
            user="operator",
            password="secret-of-operator",
            ca_file=ca_file,
        )


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    """A server that takes TLS only; its certificate is for 127.0.0.1 and localhost."""
    secrets, port = make_certificates(tmp_path), ports.choose("127.0.0.1", 0, "")
    listen = ("--cluster_listen", f"nats://127.0.0.1:{port}")
    with own_server(tmp_path / "nats", PASSWORDS | alone(port, secrets), "nats-cluster.conf", *listen) as address:
        yield Encrypted(address, secrets)


@pytest.fixture
def other_ca(tmp_path: Path) -> Path:
    return make_certificates(tmp_path / "others") / "ca.crt"


async def test_messages_pass_through_an_encrypted_connection(encrypted: Encrypted) -> None:
    """With the authority's certificate; above what one TLS record holds, too."""
    bus = await encrypted.connect(ca_file=encrypted.ca_file)
    assert isinstance(bus._client._transport._io_writer.get_extra_info("ssl_object"), ssl.SSLObject)
    await bus.subscribe("echo", lambda _s, reply, block, payload: bus.publish(reply, payload, headers=block))
    block = headers.block({headers.MESSAGE_ID: "m1"})
    for payload in (b"", b"x", bytes(bus.payload_limit)):
        assert (await bus.request("echo", payload, headers=block)).payload == payload
    await bus.close()


async def test_an_address_may_say_nats_when_there_is_an_authority(encrypted: Encrypted) -> None:
    """Who gives a certificate wants TLS, however the address is written."""
    bus = await encrypted.connect(f"nats://{encrypted.address}", encrypted.ca_file)
    assert isinstance(bus._client._transport._io_writer.get_extra_info("ssl_object"), ssl.SSLObject)
    await bus.close()


async def test_what_the_machine_trusts_is_the_default(encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an authority of one's own the operating system's are asked, which do not know this one."""
    with pytest.raises(Untrusted, match="certificate verify failed"):
        await encrypted.connect()
    monkeypatch.setenv("SSL_CERT_FILE", str(encrypted.ca_file))
    await (await encrypted.connect()).close()


async def test_a_server_by_another_authority_is_refused(encrypted: Encrypted, other_ca: Path) -> None:
    """And the error says what is wrong, and where."""
    with pytest.raises(Untrusted, match=rf"{re.escape(encrypted.url)}: .*certificate verify failed"):
        await encrypted.connect(ca_file=other_ca)


async def test_a_server_of_another_name_is_refused(encrypted: Encrypted) -> None:
    """A certificate is good for the hosts it names only: 127.0.0.2 is this machine as well, and not in it."""
    url = encrypted.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(ConnectFailed) as refused:  # nobody listens there, or who does is not trusted
        await encrypted.connect(url, encrypted.ca_file)
    assert not isinstance(refused.value, Untrusted) or "IP address mismatch" in str(refused.value)


async def test_a_password_is_not_sent_to_a_server_without_tls(server: EmbeddedServer, encrypted: Encrypted) -> None:
    """Who answers in the server's place and does not ask for TLS gets nothing, by address or by authority."""
    plain = server.url.removeprefix("nats://")
    for url, ca_file in ((f"tls://{plain}", None), (f"nats://{plain}", encrypted.ca_file)):
        with pytest.raises(Untrusted, match="does not demand TLS"):
            await encrypted.connect(url, ca_file)


async def test_the_server_refuses_a_connection_without_tls(encrypted: Encrypted) -> None:
    """Whoever speaks plainly with a right password is sent away."""
    host, _, port = encrypted.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    login = json.dumps({"user": "operator", "pass": "secret-of-operator", "verbose": False})
    async with asyncio.timeout(10):
        assert b'"tls_required":true' in await reader.readline()
        writer.write(f"CONNECT {login}\r\nPING\r\n".encode())
        assert b"PONG" not in await reader.read()
    writer.close()


async def test_a_connection_is_encrypted_again_after_a_restart(tmp_path: Path, eventually: Eventually) -> None:
    """The server is gone and comes back with the same port: subscriptions are there, and the lane is TLS again."""
    secrets, port = make_certificates(tmp_path), ports.choose("127.0.0.1", 0, "")
    own = ports.choose("127.0.0.1", 0, "")
    environment = PASSWORDS | alone(port, secrets)
    flags = ("--cluster_listen", f"nats://127.0.0.1:{port}", "-p", str(own))
    with own_server(tmp_path / "nats", environment, "nats-cluster.conf", *flags) as address:
        encrypted = Encrypted(address, secrets)
        bus = await encrypted.connect(ca_file=encrypted.ca_file)
        await bus.subscribe("echo", lambda _s, reply, _h, payload: bus.publish(reply, payload))
    with own_server(tmp_path / "nats", environment, "nats-cluster.conf", *flags):
        await eventually(lambda: bus.reconnects == 1, timeout_s=10)
        assert isinstance(bus._client._transport._io_writer.get_extra_info("ssl_object"), ssl.SSLObject)
        assert (await bus.request("echo", b"x")).payload == b"x"
        await bus.close()


async def test_closing_does_not_wait_for_a_server_that_is_not_trusted(tmp_path: Path, other_ca: Path) -> None:
    """Another server has come up at the address; a client that has been tried with it ends all the same."""
    secrets, port = make_certificates(tmp_path), ports.choose("127.0.0.1", 0, "")
    own = ports.choose("127.0.0.1", 0, "")
    flags = ("--cluster_listen", f"nats://127.0.0.1:{port}", "-p", str(own))
    with own_server(tmp_path / "nats", PASSWORDS | alone(port, secrets), "nats-cluster.conf", *flags) as address:
        encrypted = Encrypted(address, secrets)
        bus = await encrypted.connect(ca_file=encrypted.ca_file)
    others = PASSWORDS | alone(port, other_ca.parent)
    with own_server(tmp_path / "others", others, "nats-cluster.conf", *flags):
        async with asyncio.timeout(10):
            while not isinstance(bus._client.last_error, ssl.SSLCertVerificationError):
                await asyncio.sleep(0.01)
            await bus.close()
    assert bus.reconnects == 0


async def test_a_service_trusts_its_authority_only(encrypted: Encrypted, other_ca: Path, tmp_path: Path) -> None:
    """``nats_ca_file``: right, the service runs; another's, its start ends, as it would not become right by waiting."""
    (tmp_path / "password").write_text("secret-of-operator")
    config = ServiceConfig(
        nats_url=encrypted.url, nats_password_file=tmp_path / "password", nats_ca_file=encrypted.ca_file
    )
    async with running("operator", nothing, config) as chassis:
        assert chassis.bus.connected
    with pytest.raises(Untrusted):
        async with running("operator", nothing, config.model_copy(update={"nats_ca_file": other_ca})):
            pytest.fail("it started")


async def test_the_sdk_connects_by_tls(encrypted: Encrypted, other_ca: Path) -> None:
    """`mayfly.Client` of a platform elsewhere takes the authority's file, as a path or a string."""
    async with mayfly.Client(
        nats=encrypted.url, user="operator", password="secret-of-operator", ca_file=str(encrypted.ca_file)
    ) as client:
        assert client._bus.connected
    with pytest.raises(Untrusted):
        async with mayfly.Client(nats=encrypted.url, ca_file=other_ca):
            pytest.fail("it connected")


async def test_a_node_that_joins_trusts_its_authority_only(
    encrypted: Encrypted, other_ca: Path, tmp_path: Path
) -> None:
    """Before it starts a worker, `mayfly worker --join --ca` looks whether its name is taken; by TLS as well."""
    (tmp_path / "password").write_text(f"secret-of-{joining.WORKER}")

    def config(ca_file: Path) -> ServiceConfig:
        return ServiceConfig(nats_url=encrypted.url, nats_ca_file=ca_file, nats_password_file=tmp_path / "password")

    with pytest.raises(Untrusted):
        await joining.lives(config(other_ca), "n1")
    with pytest.raises(NoResponders):  # it is let in, and finds no bucket on this bare server
        await joining.lives(config(encrypted.ca_file), "n1")


@pytest.mark.parametrize(("text", "said"), [("", "no certificate"), (None, "No such file")])
async def test_a_file_of_no_use_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    """Not a handshake that fails for unknown reasons."""
    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(Untrusted, match=rf"{re.escape(str(file))}: .*{said}"):
        await Bus.connect("tls://127.0.0.1:9", name="test", role="operator", ca_file=file)
