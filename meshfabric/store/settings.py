"""Where etcd is and who we are: what an operator writes, checked before anything is dialled.

Owns reading endpoints, certificates and the password; `connection` dials.
Every mistake that a person can make here is an InputError with its place.
"""

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec

from meshfabric.model.errors import InputError

CALL_DEADLINE_S = 5.0
ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<literal>[^]]+)]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})/?"
)
LAST_PORT = 65535
IPV6 = 6
ENDPOINT_FORM = "write http(s)://host:port, an IPv6 host in brackets"


class Settings(msgspec.Struct, frozen=True):
    """Where etcd is and who we are.

    `endpoints` are `http://host:port` or `https://host:port`, IPv6 literals in
    brackets; https needs `ca`. `cert` and `key` (PEM files) go together, as do
    `user` and `password_file`. `timeout_s` bounds one try at one endpoint.
    """

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    timeout_s: float = CALL_DEADLINE_S


class Endpoint(NamedTuple):
    """One member's client address: as written, as gRPC wants it, and whether by TLS."""

    url: str
    target: str
    secure: bool


def read_endpoints(settings: Settings) -> list[Endpoint]:
    """The endpoints, after a check of all settings and the files they name; raises InputError."""
    endpoints = [_endpoint(url) for url in settings.endpoints]
    if not endpoints:
        raise InputError("no endpoint", place="etcd.endpoints", remedy=ENDPOINT_FORM)
    if bool(settings.cert) != bool(settings.key):
        raise InputError("cert and key go together", place="etcd", remedy="write both or neither")
    if bool(settings.user) != bool(settings.password_file):
        raise InputError("user and password_file go together", place="etcd", remedy="write both or neither")
    if any(endpoint.secure for endpoint in endpoints):
        credentials(settings)
    if settings.user:
        password(settings)
    return endpoints


def _endpoint(url: str) -> Endpoint:
    written = ENDPOINT.fullmatch(url)
    address = _address(written["host"], written["literal"]) if written else ""
    if not written or not address or not 0 < int(written["port"]) <= LAST_PORT:
        raise InputError(f"{url!r} is no etcd endpoint", place="etcd.endpoints", remedy=ENDPOINT_FORM)
    return Endpoint(url, f"{address}:{written['port']}", written["scheme"] == "https")


def _address(host: str | None, literal: str | None) -> str:
    """gRPC's name of a host, "" if it is none: https://grpc.github.io/grpc/core/md_doc_naming.html"""
    try:
        version = ipaddress.ip_address(literal or host or "").version
    except ValueError:
        return f"dns:///{host}" if host else ""
    if literal:
        return f"ipv6:[{literal.replace('%', '%25')}]" if version == IPV6 else ""
    return f"ipv4:{host}"


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the {what}: {error.strerror}", place=path, remedy="correct the etcd section"
        ) from error


def _check_pem(settings: Settings) -> None:
    """gRPC takes any bytes for a certificate and fails at each handshake: refuse them here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=settings.ca)
    except ssl.SSLError as error:
        raise InputError("no PEM certificate in it", place=settings.ca, remedy="correct etcd.ca") from error
    try:
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key, password=lambda: b"")
    except ssl.SSLError as error:
        what = f"not a certificate with the key of {settings.key}"
        raise InputError(what, place=settings.cert, remedy="correct etcd.cert and etcd.key") from error


def credentials(settings: Settings) -> Any:
    """gRPC channel credentials from the files as they are now; raises InputError."""
    if not settings.ca:
        raise InputError("https needs a certificate authority", place="etcd", remedy="write etcd.ca")
    ca = _read(settings.ca, "certificate authority")
    cert = _read(settings.cert, "client certificate") if settings.cert else None
    key = _read(settings.key, "client key") if settings.key else None
    _check_pem(settings)
    return grpc.ssl_channel_credentials(ca, key, cert)


def password(settings: Settings) -> str:
    """The user's password as the file has it now, without a last newline; raises InputError."""
    raw = _read(settings.password_file, "password file")
    try:
        word = raw.decode().removesuffix("\n")
    except UnicodeDecodeError:
        word = ""
    if not word:
        raise InputError("no password in it", place=settings.password_file, remedy="write one line of UTF-8")
    return word
