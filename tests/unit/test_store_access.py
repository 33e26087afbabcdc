"""Who may: users, passwords, tokens and certificates, against real etcd servers."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshfabric.model.errors import PermanentError, TemporaryError
from meshfabric.store.client import Etcd
from meshfabric.store.settings import CALL_DEADLINE_S, Settings
from tests.etcd import CALL_S, Certificates, Server, StartEtcd, make_certificates
from tests.patience import DEADLINE_S

pytest_plugins = ["tests.etcd"]

MANY = 50


@pytest.fixture(scope="module")
def guarded(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with auth on, shared."""
    server = Server(etcd_binary, tmp_path_factory.mktemp("etcd") / "guarded")
    try:
        server.start().enable_auth()
        yield server
    finally:
        server.stop()


def _login(
    server: Server, folder: Path, password: str = "right", timeout_s: float = CALL_DEADLINE_S
) -> Settings:
    file = folder / "password"
    file.write_text(password + "\n")
    return server.settings(timeout_s, user="node", password_file=str(file))


async def test_a_user_may_what_its_role_grants(guarded: Server, tmp_path: Path) -> None:
    async with Etcd(_login(guarded, tmp_path)) as etcd:
        await etcd.put(b"/mine/key", b"x")
        assert await etcd.get(b"/mine/key")
        with pytest.raises(PermanentError, match=r"etcd key /theirs/key: .*permission denied .*role"):
            await etcd.put(b"/theirs/key", b"x")
        with pytest.raises(PermanentError, match="permission denied"):
            await anext(etcd.scan(b"/"))
        assert (await etcd.status()).version


async def test_a_wrong_password_is_permanent_and_names_its_file(guarded: Server, tmp_path: Path) -> None:
    settings = _login(guarded, tmp_path, "wrong")
    async with Etcd(settings) as etcd:
        with pytest.raises(PermanentError) as raised:
            await etcd.get(b"/mine/key")
        assert "etcd user 'node'" in str(raised.value)
        assert settings.password_file in str(raised.value)
        _login(guarded, tmp_path, "right")
        await etcd.put(b"/mine/key", b"x")


async def test_no_user_where_one_is_needed_is_permanent(guarded: Server) -> None:
    async with Etcd(guarded.settings()) as etcd:
        with pytest.raises(PermanentError, match=r"user name is empty .*etcd\.user"):
            await etcd.get(b"/mine/key")


async def test_calls_at_once_share_a_login(guarded: Server, tmp_path: Path) -> None:
    logins = guarded.calls("Authenticate")
    async with Etcd(_login(guarded, tmp_path)) as etcd:
        await asyncio.gather(*(etcd.get(b"/mine/key") for _ in range(MANY)))
    assert guarded.calls("Authenticate") == logins + 1


async def test_a_user_is_no_mistake_where_auth_is_off_or_turned_on_later(
    start_etcd: StartEtcd, tmp_path: Path
) -> None:
    server = start_etcd()
    async with Etcd(_login(server, tmp_path)) as etcd:
        await etcd.put(b"/theirs/key", b"x")
        server.enable_auth()
        await etcd.put(b"/mine/key", b"x")
        with pytest.raises(PermanentError, match="permission denied"):
            await etcd.put(b"/theirs/key", b"x")


async def test_a_token_that_ran_out_is_renewed_unseen_and_once(start_etcd: StartEtcd, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the signer, 32 bytes or more, for HS256")
    server = start_etcd(f"--auth-token=jwt,priv-key={secret},sign-method=HS256,ttl=5s")
    server.enable_auth()
    async with Etcd(_login(server, tmp_path)) as etcd, asyncio.timeout(DEADLINE_S):
        await etcd.put(b"/mine/key", b"x")
        logins = server.calls("Authenticate")
        while server.calls("Authenticate") == logins:
            assert all(await asyncio.gather(*(etcd.get(b"/mine/key") for _ in range(MANY))))
            await asyncio.sleep(0.1)
        assert server.calls("Authenticate") == logins + 1


async def test_a_token_of_a_cluster_that_was_replaced_costs_one_call_at_most(
    start_etcd: StartEtcd, tmp_path: Path
) -> None:
    server = start_etcd()
    async with Etcd(server.settings()) as anyone:
        for _ in range(MANY):  # the token names a raft index that the new cluster will not have reached
            await anyone.put(b"/any", b"x")
    server.enable_auth()
    async with Etcd(_login(server, tmp_path, timeout_s=CALL_S)) as etcd:
        await etcd.get(b"/mine/key")
        server.stop()
        server.forget()
        server.start().enable_auth()
        with suppress(TemporaryError):
            await etcd.get(b"/mine/key")
        async with asyncio.timeout(CALL_S):
            await etcd.get(b"/mine/key")


# --- TLS


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pem") / "ours")


@pytest.fixture(scope="module")
def other_pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pem") / "others")


def _tls(server: Server, ca: Path, cert: Path, key: Path) -> Etcd:
    return Etcd(server.settings(ca=str(ca), cert=str(cert), key=str(key)))


async def test_a_client_certificate_is_an_etcd_user(start_etcd: StartEtcd, pem: Certificates) -> None:
    server = start_etcd("--client-cert-auth", certificates=pem)
    server.enable_auth("node")
    async with _tls(server, pem.ca, pem.client_cert, pem.client_key) as etcd:
        await etcd.put(b"/mine/key", b"x")
        with pytest.raises(PermanentError, match="/theirs/key"):
            await etcd.put(b"/theirs/key", b"x")


async def test_strangers_get_no_connection(
    start_etcd: StartEtcd, pem: Certificates, other_pem: Certificates
) -> None:
    server = start_etcd("--client-cert-auth", certificates=pem)
    for stranger in (
        Etcd(server.settings(ca=str(pem.ca))),
        _tls(server, pem.ca, other_pem.client_cert, other_pem.client_key),
    ):
        async with stranger as etcd:
            with pytest.raises(TemporaryError, match=rf"{server.endpoint}: .* refuses etcd\.cert"):
                await etcd.get(b"/any")


async def test_an_impostor_is_not_believed(
    start_etcd: StartEtcd, pem: Certificates, other_pem: Certificates
) -> None:
    server = start_etcd(certificates=other_pem)
    async with _tls(server, pem.ca, pem.client_cert, pem.client_key) as etcd:
        with pytest.raises(TemporaryError, match=rf"{server.endpoint}: its certificate .* etcd\.ca"):
            await etcd.get(b"/any")


async def test_tls_on_one_side_only_is_told(etcd_server: Server, pem: Certificates) -> None:
    endpoint = etcd_server.endpoint.replace("http", "https")
    async with Etcd(Settings((endpoint,), ca=str(pem.ca))) as etcd:
        with pytest.raises(TemporaryError, match=f"{endpoint}: it does not speak TLS"):
            await etcd.get(b"/any")


async def test_renewed_certificates_are_read_at_the_next_connection(
    start_etcd: StartEtcd, pem: Certificates, other_pem: Certificates, tmp_path: Path
) -> None:
    server = start_etcd("--client-cert-auth", certificates=pem)
    cert, key = tmp_path / "cert", tmp_path / "key"
    shutil.copy(other_pem.client_cert, cert)
    shutil.copy(other_pem.client_key, key)
    async with _tls(server, pem.ca, cert, key) as etcd:
        with pytest.raises(TemporaryError):
            await etcd.get(b"/any")
        shutil.copy(pem.client_cert, cert)
        shutil.copy(pem.client_key, key)
        assert await etcd.get(b"/any") is None
