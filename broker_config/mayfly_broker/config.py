"""Configuration of nats-server, as text: for the embedded server, and for one that somebody runs themselves."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mayfly_broker.access import NOTHING, Access
from mayfly_broker.roles import CLIENT, ROLES, Permissions, roles
from mayfly_proto import subjects

ACCOUNT = "MAYFLY"

# Why these figures:
#   max_payload    the largest event and result; nats-server advises at most 8 MB
#   max_pending    what may wait for one slow connection before it is closed
#   ping_*         a half-open connection (node lost, cable pulled) is noticed in 20 s instead of minutes
#   sync_interval  an acknowledged write survives a kill -9 of the server at once (it is in the page cache) and a power
#                  failure after at most this long; "always" syncs each write by itself and costs nine tenths of the
#                  throughput, the default is two minutes
#   There is no max_subscriptions: a router holds one for each function version.
_LIMITS = """\
max_payload: 8MB
max_pending: 64MB
write_deadline: "10s"
ping_interval: "10s"
ping_max: 2
"""
_SYNC_INTERVAL = "5s"

_ROUTE_USER = "server"  # as whom servers of a cluster connect to each other

_PLAIN_STORE = Path("/data/jetstream")
_PLAIN_MONITORING = "http: 127.0.0.1:8222\n"
_CERTIFICATE = "cert_file: $MAYFLY_TLS_CERT, key_file: $MAYFLY_TLS_KEY, ca_file: $MAYFLY_TLS_CA"

# Each server proves itself to the others by its certificate, too. What a server sees as its own address need not be
# what others can reach, or what its certificate names: it is told which to give to the other servers, and gives none to
# clients, who know all that there are.
_ENCRYPTED = f"""\
  tls {{ {_CERTIFICATE}, verify: true }}
  advertise: $MAYFLY_SERVER_HOST
  no_advertise: true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A server's place among the servers of one cluster, all on this machine."""

    server: str  # its name
    port: int  # where it listens for the others
    ports: tuple[int, ...]  # where each listens, itself included
    password: str  # with which they connect to each other


def make_passwords() -> dict[str, str]:
    """A fresh random password for each role."""
    return {role: secrets.token_urlsafe(24) for role in ROLES}


def password_variable(role: str) -> str:
    """The environment variable that holds a role's password for a server one runs oneself."""
    return f"MAYFLY_{role.upper()}_PASSWORD"


def embedded(
    store: Path,
    run: Path,
    *,
    port: int,
    passwords: Mapping[str, str],
    anonymous: bool,
    access: Access,
    cluster: Cluster | None,
) -> str:
    """For a server on this machine only. ``port`` -1: any; the server writes its ports into ``run``."""
    return "".join(
        (
            _server(f"127.0.0.1:{port}", store / "jetstream"),
            "http: 127.0.0.1:-1\n",
            f"ports_file_dir: {_quote(run)}\n",
            f"log_file: {_quote(store / 'nats-server.log')}\n",
            "logfile_size_limit: 10MB\nlogfile_max_num: 3\n",
            _member(cluster) if cluster else "",
            accounts({role: _quote(password) for role, password in passwords.items()}, access, anonymous=anonymous),
        )
    )


def plain() -> str:
    """``broker_config/nats-server.conf``: a single server that one runs oneself."""
    return f"""\
# A single nats-server for Mayfly, to run oneself: nats-server -c nats-server.conf
{_by_environment()}
#
# Once it runs: `python -m mayfly_broker bootstrap` makes the streams and buckets.

server_name: mayfly-1
{_server("4222", _PLAIN_STORE)}\
{_PLAIN_MONITORING}
# For TLS, give the server a certificate and the services a tls:// address (and MAYFLY_NATS_CA_FILE, if it is signed by
# an authority of your own):
# tls {{ cert_file: "/etc/nats/tls.crt", key_file: "/etc/nats/tls.key" }}

include "roles.conf"
"""


def plain_cluster() -> str:
    """``broker_config/nats-cluster.conf``: the same file for each server of a cluster that one runs oneself."""
    return f"""\
# One of three (or five) nats-servers for Mayfly, to run oneself: nats-server -c nats-cluster.conf
{_by_environment()}
#
# And what makes it one of a cluster:
#   MAYFLY_SERVER_NAME        its own name, as mayfly-1
#   MAYFLY_SERVER_HOST        where the others reach it, as host-1
#   MAYFLY_CLUSTER_PASSWORD   with which the servers connect to each other
#   MAYFLY_ROUTES             where, itself included: ["tls://{_ROUTE_USER}:PASSWORD@host-1:6222", ...]
#   MAYFLY_TLS_CERT, MAYFLY_TLS_KEY, MAYFLY_TLS_CA
#                             files: its certificate, which names its host and is good for servers and for clients,
#                             and that of the authority which has signed it and the other servers'
#
# Once all run: `python -m mayfly_broker bootstrap --replicas 3` makes the streams and buckets. It and the services are
# given all addresses, and the authority's certificate:
#   MAYFLY_NATS_URL=tls://host-1:4222,tls://host-2:4222,tls://host-3:4222
#   MAYFLY_NATS_CA_FILE=ca.crt

server_name: $MAYFLY_SERVER_NAME
tls {{ {_CERTIFICATE} }}
{_cluster("6222", "$MAYFLY_CLUSTER_PASSWORD", "$MAYFLY_ROUTES", _ENCRYPTED)}\
{_server("4222", _PLAIN_STORE)}\
{_PLAIN_MONITORING}
include "roles.conf"
"""


def plain_roles(access: Access = NOTHING) -> str:
    """``broker_config/roles.conf``: accounts and permissions, with the passwords from the environment."""
    header = "# Accounts and permissions, made by `python -m mayfly_broker` from mayfly_broker/roles.py.\n\n"
    return header + accounts({role: f"${password_variable(role)}" for role in ROLES}, access, anonymous=False)


def accounts(passwords: Mapping[str, str], access: Access, *, anonymous: bool) -> str:
    """The accounts block. ``passwords`` are values as they stand in the file, quoted or variables.

    ``anonymous``: a connection without credentials is a client.
    """
    event = subjects.account_disconnect(ACCOUNT)
    allowed = roles(access)
    users = "\n".join(_user(role, password, allowed[role]) for role, password in passwords.items())
    return f"""\
system_account: SYS
accounts {{
  SYS {{
    exports: [ {{ stream: "{event}", accounts: [{ACCOUNT}] }} ]
  }}
  {ACCOUNT} {{
    jetstream: enabled
    imports: [ {{ stream: {{ account: SYS, subject: "{event}" }}, to: "{subjects.DISCONNECT}" }} ]
    users: [
{users}
    ]
  }}
}}
""" + (f"no_auth_user: {CLIENT}\n" if anonymous else "")


def _by_environment() -> str:
    passwords = "\n".join(f"#   {password_variable(role)}" for role in ROLES)
    return f"""\
# Made by `python -m mayfly_broker`; a test keeps it so.
#
# The password of each role comes from the environment (it must start with a letter, or be in double quotes):
{passwords}"""


def _member(cluster: Cluster) -> str:
    routes = [f"nats://{_ROUTE_USER}:{cluster.password}@127.0.0.1:{port}" for port in cluster.ports]
    return f"server_name: {_quote(cluster.server)}\n" + _cluster(
        f"127.0.0.1:{cluster.port}", _quote(cluster.password), f"[{', '.join(map(_quote, routes))}]"
    )


def _cluster(listen: str, password: str, routes: str, more: str = "") -> str:
    """``password`` and ``routes`` as they stand in the file."""
    return f"""\
cluster {{
  name: mayfly
  listen: {listen}
  authorization {{ user: {_ROUTE_USER}, password: {password} }}
  routes: {routes}
{more}}}
"""


def _server(listen: str, store: Path) -> str:
    return f"""\
listen: {listen}
{_LIMITS}\
jetstream {{
  store_dir: {_quote(store)}
  sync_interval: "{_SYNC_INTERVAL}"
}}
"""


def _user(role: str, password: str, allowed: Permissions) -> str:
    return f"""\
      {{ user: {role}, password: {password}, permissions: {{
          publish: [
{_list(allowed.publish)}
          ]
          subscribe: [
{_list(allowed.subscribe)}
          ]
      }} }}"""


def _list(subjects_allowed: Iterable[str]) -> str:
    return "\n".join(f'            "{subject}"' for subject in subjects_allowed)


def _quote(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)
