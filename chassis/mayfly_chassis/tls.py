"""Which servers a connection trusts."""

import ssl
from pathlib import Path


class UnusableCertificates(Exception):
    """The file of certificates cannot be used; the message says why."""


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts what the certificates in ``ca_file`` (PEM) have signed and nothing else; None: what this machine trusts.

    Raises `UnusableCertificates`.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise UnusableCertificates(f"{ca_file}: holds no certificate in PEM form ({error.reason})") from error
    except OSError as error:
        raise UnusableCertificates(f"{ca_file}: {error.strerror}") from error
