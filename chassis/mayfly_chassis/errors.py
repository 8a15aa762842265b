"""What can go wrong between a service and NATS.

BusError
├── ConnectFailed             no server answers, or not as one
│   ├── Unauthorized          it answers, and refuses this user
│   └── Untrusted             it answers, and cannot prove that it is the one to talk to
├── BusClosed                 this connection is over for good
├── NoResponders              nobody listens on that subject
├── RequestTimeout
├── OutboundBufferFull        disconnected or stalled for too long
├── MessageTooLarge           above the server's max_payload, which would close the connection for good
└── JetStreamError            the server refused; carries its error code
    ├── KeyExists
    ├── WrongRevision
    ├── TooMany
    ├── SubjectFull
    └── ObjectError
        ├── ObjectNotFound
        ├── ObjectCorrupt
        └── ObjectTooLarge
"""


class BusError(Exception):
    """Something between this service and NATS went wrong."""


class ConnectFailed(BusError):
    """No connection to the server could be made."""


class Unauthorized(ConnectFailed):
    """The server refuses this user or password."""


class Untrusted(ConnectFailed):
    """The server's certificate is not to be trusted, or it has none where TLS is demanded. No password was sent."""


class BusClosed(BusError):
    """The connection is closed for good."""


class NoResponders(BusError):
    """Nobody is subscribed to the subject of the request."""


class RequestTimeout(BusError):
    """No reply came in time."""


class OutboundBufferFull(BusError):
    """The server takes no data, and as much as may wait for it waits already."""


class MessageTooLarge(BusError):
    """The message is larger than the server's max_payload."""


class JetStreamError(BusError):
    """JetStream refused a request.

    ``code`` is the server's ``err_code`` (0 when it gave none), such as 10071 for a wrong last sequence.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class KeyExists(JetStreamError):
    """The key to be created has a value."""


class WrongRevision(JetStreamError):
    """The key has been written since the revision that was to be replaced."""


class TooMany(JetStreamError):
    """There are more keys or objects than the caller takes."""


class SubjectFull(JetStreamError):
    """As many messages of this subject as its stream keeps wait already; other subjects are not concerned."""


class ObjectError(JetStreamError):
    """Something about an object in an object store."""


class ObjectNotFound(ObjectError):
    """There is no object of this name."""


class ObjectCorrupt(ObjectError):
    """What is stored is not what was put: chunks are missing, or the digest differs."""


class ObjectTooLarge(ObjectError):
    """The object is larger than the reader allows."""
