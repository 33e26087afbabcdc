"""What an operator may get wrong about etcd: one clear error each, before anything is dialled."""

from pathlib import Path

import pytest

from meshfabric.model.errors import InputError
from meshfabric.store.client import Etcd, prefix_end
from meshfabric.store.settings import Settings, read_endpoints
from tests.etcd import Certificates, make_certificates


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pem") / "files")


@pytest.mark.parametrize(
    ("url", "target", "secure"),
    [
        ("http://192.0.2.1:2379", "ipv4:192.0.2.1:2379", False),
        ("http://[2001:db8::1]:2379", "ipv6:[2001:db8::1]:2379", False),
        ("http://[fe80::1%eth0]:2379/", "ipv6:[fe80::1%25eth0]:2379", False),
        ("http://etcd.example:2379", "dns:///etcd.example:2379", False),
    ],
)
def test_endpoint_becomes_a_grpc_target(url: str, target: str, secure: bool) -> None:
    (endpoint,) = read_endpoints(Settings((url,)))
    assert (endpoint.url, endpoint.target, endpoint.secure) == (url, target, secure)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.0.2.1:2379",
        "http://192.0.2.1",
        "http://192.0.2.1:0",
        "http://192.0.2.1:65536",
        "http://2001:db8::1:2379",
        "http://[2001:db8::1:2379",
        "tcp://192.0.2.1:2379",
        "http://192.0.2.1:2379/v3",
        "http://192.0.2.1:2379?x=y",
        "http://user:word@192.0.2.1:2379",
        "http://:2379",
        "http://a b:2379",
        "http://[192.0.2.1]:2379",
        "http://192.0.2.1:2379\n",
    ],
)
def test_what_is_no_endpoint_is_shown_as_written(url: str) -> None:
    with pytest.raises(InputError) as raised:
        read_endpoints(Settings(("http://192.0.2.9:2379", url)))
    assert repr(url) in str(raised.value)
    assert "etcd.endpoints" in str(raised.value)
    assert "http(s)://host:port" in str(raised.value)


def test_certificates_that_fit_are_accepted(pem: Certificates) -> None:
    settings = Settings(("https://192.0.2.1:2379",), str(pem.ca), str(pem.client_cert), str(pem.client_key))
    (endpoint,) = read_endpoints(settings)
    assert endpoint.secure


def test_mistakes_are_told_with_their_place(pem: Certificates, tmp_path: Path) -> None:
    empty, noise, absent = tmp_path / "empty", tmp_path / "noise", tmp_path / "absent"
    empty.write_text("\n")
    noise.write_bytes(b"\xff\xfe")
    ca, cert, key = str(pem.ca), str(pem.client_cert), str(pem.client_key)
    https = ("https://192.0.2.1:2379",)
    http = ("http://192.0.2.1:2379",)
    mistakes = {
        Settings(()): "no endpoint",
        Settings(https): "etcd.ca",
        Settings(https, ca=str(absent)): f"{absent}: cannot read the certificate authority: No such file",
        Settings(https, ca=str(noise)): f"{noise}: no PEM certificate",
        Settings(https, ca=str(tmp_path)): f"{tmp_path}: cannot read the certificate authority",
        Settings(https, ca, cert): "cert and key go together",
        Settings(https, ca, cert, str(absent)): f"{absent}: cannot read the client key",
        Settings(https, ca, cert, str(pem.server_key)): f"{cert}: not a certificate with the key of",
        Settings(https, ca, str(noise), key): f"{noise}: not a certificate with the key of",
        Settings(http, user="node"): "user and password_file go together",
        Settings(http, user="node", password_file=str(absent)): f"{absent}: cannot read the password file",
        Settings(http, user="node", password_file=str(empty)): f"{empty}: no password in it",
        Settings(http, user="node", password_file=str(noise)): f"{noise}: no password in it",
    }
    for settings, told in mistakes.items():
        with pytest.raises(InputError) as raised:
            Etcd(settings)
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_prefix_end_is_the_next_key_that_does_not_begin_so(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
