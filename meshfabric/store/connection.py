"""The way to etcd: endpoints, certificates, tokens, deadlines and who is asked next.

Owns one gRPC channel for each endpoint and turns what etcd answers into the
errors below. What is asked is the business of `client`; watching, of `watch`.
Nothing here repeats a request beyond one try at each endpoint: loops repeat.

    client.Etcd --ask----> Connection --unary call, the next endpoint if it fails--> members
    watch.follow --stream-> Connection --one stream to the endpoint preferred------> one member

A channel whose connection failed is thrown away, so that the next call tries
afresh, without waiting out a back-off, and reads renewed certificates.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import grpc

from meshfabric.model.errors import PermanentError, TemporaryError
from meshfabric.store import etcd_pb2 as pb
from meshfabric.store.settings import Endpoint, Settings, credentials, password, read_endpoints

KEEPALIVE_EVERY_MS = 5000  # not below: etcd's --grpc-keepalive-min-time is 5 s
KEEPALIVE_ANSWER_MS = 2000
CONNECT_DEADLINE_MS = 3000
UNLIMITED = -1
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", KEEPALIVE_EVERY_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_MS),
    # Without these two a stopped server under a silent watch goes unnoticed.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_ANSWER_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", CONNECT_DEADLINE_MS),  # gRPC bounds an attempt to connect by it
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.use_local_subchannel_pool", 1),  # no sharing of connections between users
    ("grpc.enable_http_proxy", 0),  # etcd is on the underlay, whatever the environment says
)
LEADER_WANTED = ("hasleader", "true")  # a member cut off from its cluster then refuses, streams too

TOKEN_REFUSALS = (
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
)
AUTH_OFF = "etcdserver: authentication is not enabled"
PERMISSION_DENIED = "etcdserver: permission denied"

CAUSE_PREFIX = re.compile(r"^(?:[A-Z_]+: )?(?:ipv[46]:\S+: )?")  # "UNAVAILABLE: ipv4:192.0.2.1:2379: "
TLS_FAULTS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by etcd.ca, expired, or for another host",
    "TSI_DATA_CORRUPTED": "it ended the TLS connection, probably because it refuses etcd.cert",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "Handshake read failed": "it does not speak TLS, or is ending",
}

Reply = TypeVar("Reply")


class EndpointFault(TemporaryError):
    """One endpoint did not serve the request; another one may."""


class NoAnswer(EndpointFault):
    """An endpoint let the deadline pass: it hangs, or waits for something that will not happen."""


class RevisionGone(TemporaryError):
    """The revision asked for was compacted, or belongs to another history: list anew."""


class TokenRefused(PermanentError):
    """etcd wants a (new) token; permanent only when a fresh one is refused as well."""


class LeaseGone(PermanentError):
    """No such lease (any more): take a new one."""


class Message(Protocol):
    """What a request can do."""

    def SerializeToString(self) -> bytes: ...


class Method(NamedTuple, Generic[Reply]):
    """A gRPC method by its path, and what it answers."""

    path: str
    reply: type[Reply]

    @property
    def parse(self) -> Callable[[bytes], Reply]:
        """Bytes to the answer."""
        return self.reply.FromString  # type: ignore[attr-defined,no-any-return]  # made at run time


AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateResponse)


class Answer(NamedTuple, Generic[Reply]):
    """A reply; `in_doubt` if an endpoint asked earlier may have done the same already."""

    reply: Reply
    in_doubt: bool


def refusal(details: str, place: str) -> PermanentError:
    """The permanent error for what etcd said of a request about `place`."""
    if details in TOKEN_REFUSALS:
        remedy = "give etcd.user and etcd.password_file, or a client certificate that etcd knows"
        return TokenRefused(details, place=place, remedy=remedy)
    if details == PERMISSION_DENIED:
        return PermanentError(details, place=place, remedy="grant the etcd user a role for this key")
    return PermanentError(details, place=place, remedy="correct the request or etcd's configuration")


def _error(endpoint: Endpoint, error: Any, place: str) -> Exception:
    """What a failed call means: somebody else may serve it, later, or never."""
    code, details = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.OUT_OF_RANGE if "mvcc" in details:
            return RevisionGone(details, place=place, remedy="list again")
        case grpc.StatusCode.NOT_FOUND:
            return LeaseGone(details, place=place, remedy="take a new lease")
        case grpc.StatusCode.UNIMPLEMENTED:
            return PermanentError("no etcd v3 there", place=endpoint.url, remedy="correct etcd.endpoints")
        case (
            grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.UNAUTHENTICATED
            | grpc.StatusCode.PERMISSION_DENIED
            | grpc.StatusCode.FAILED_PRECONDITION
            | grpc.StatusCode.OUT_OF_RANGE
        ):
            return refusal(details, place)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoAnswer("no answer in time", place=endpoint.url)
    return EndpointFault(_short(details), place=endpoint.url)


def _short(details: str) -> str:
    """The last of gRPC's chain of causes, such as "Connection refused"; plain words for what TLS says."""
    for sign, meaning in TLS_FAULTS.items():
        if sign in details:
            return meaning
    last = details.rpartition("Failed to connect to remote host: ")[2].rpartition("last error: ")[2]
    return " ".join(CAUSE_PREFIX.sub("", last).split())


def _lost_connection(error: Any) -> bool:
    ours = (error.details() or "").startswith("etcdserver:")  # said by a server that is there
    return error.code() is grpc.StatusCode.UNAVAILABLE and not ours


class Stream(Generic[Reply]):
    """One open stream to one endpoint; used by one task at a time for reading."""

    def __init__(self, connection: "Connection", endpoint: Endpoint, channel: Any, call: Any) -> None:
        self._connection, self._endpoint, self._channel, self._call = connection, endpoint, channel, call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()

    async def write(self, request: Message) -> None:
        """Send one message; EndpointFault if the stream has ended."""
        with self._judged():
            await self._call.write(request)

    async def read(self) -> Reply:
        """The next message; EndpointFault if the stream has ended."""
        with self._judged():
            message: Reply = await self._call.read()
        if message is grpc.aio.EOF:
            raise self.fault("closed the stream")
        return message

    def fault(self, what: str) -> EndpointFault:
        """Give this endpoint up for the next one, and say why."""
        self._connection.give_way(self._endpoint)
        return EndpointFault(what, place=self._endpoint.url)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            with self._connection.judged(self._endpoint, self._channel, self._endpoint.url):
                yield
        except EndpointFault:
            self._connection.give_way(self._endpoint)
            raise


class Connection:
    """Channels to all endpoints, the token, and the endpoint that answered last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._endpoints = read_endpoints(settings)
        self._preferred = 0
        self._channels: dict[Endpoint, Any] = {}
        self._dropped: set[asyncio.Task[None]] = set()
        self._token: str | None = None
        self._renewing = asyncio.Lock()
        self._closed = False

    async def ask(
        self, method: Method[Reply], request: Message, place: str, timeout_s: float | None = None
    ) -> Answer[Reply]:
        """Call, trying each endpoint once, each within `timeout_s`; `place` names the object in errors."""
        faults: list[EndpointFault] = []
        for endpoint in self._endpoints[self._preferred :] + self._endpoints[: self._preferred]:
            try:
                reply = await self._ask_one(endpoint, method, request, place, timeout_s)
            except EndpointFault as fault:
                self._blame(endpoint, fault)
                faults.append(fault)
            else:
                return Answer(reply, in_doubt=bool(faults))
        raise _away(faults)

    async def stream(self, method: Method[Reply]) -> Stream[Reply]:
        """Open a stream to the preferred endpoint; that it works shows only when it is read."""
        endpoint = self._endpoints[self._preferred]
        token = await self._current_token(endpoint)
        channel = self._channel(endpoint)
        multi = channel.stream_stream(method.path, _pack, method.parse)
        return Stream(self, endpoint, channel, multi(metadata=_metadata(token)))

    def give_way(self, endpoint: Endpoint) -> None:
        """Prefer the next endpoint, if `endpoint` is the one preferred."""
        if self._endpoints[self._preferred] == endpoint:
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    def _blame(self, endpoint: Endpoint, fault: EndpointFault) -> None:
        self.give_way(endpoint)
        if isinstance(fault, NoAnswer):
            # A token names the raft index of its login: a restored or new cluster that has not
            # reached this index makes the call wait instead of refusing it.
            self.forget_token()

    def forget_token(self) -> None:
        """Distrust the token: the next call takes a new one."""
        self._token = None

    async def close(self) -> None:
        """Cut every call; later ones raise PermanentError."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
        await asyncio.gather(*self._dropped)

    async def _ask_one(
        self, endpoint: Endpoint, method: Method[Reply], request: Message, place: str, timeout_s: float | None
    ) -> Reply:
        token = await self._current_token(endpoint)
        try:
            return await self._send(endpoint, method, request, place, token, timeout_s)
        except TokenRefused:
            if not self.settings.user:
                raise
        token = await self._renewed_token(endpoint, stale=token)
        return await self._send(endpoint, method, request, place, token, timeout_s)

    async def _send(
        self,
        endpoint: Endpoint,
        method: Method[Reply],
        request: Message,
        place: str,
        token: str,
        timeout_s: float | None = None,
    ) -> Reply:
        channel = self._channel(endpoint)
        call = channel.unary_unary(method.path, _pack, method.parse)
        with self.judged(endpoint, channel, place):
            reply: Reply = await call(
                request, timeout=timeout_s or self.settings.timeout_s, metadata=_metadata(token)
            )
        return reply

    async def _current_token(self, endpoint: Endpoint) -> str:
        """The token to send, "" for none."""
        if not self.settings.user:
            return ""
        return await self._renewed_token(endpoint, stale=None) if self._token is None else self._token

    async def _renewed_token(self, endpoint: Endpoint, stale: str | None) -> str:
        """A token other than `stale`; many callers share one request, as each costs etcd a bcrypt."""
        async with self._renewing:
            if self._token is None or self._token == stale:
                self._token = await self._authenticate(endpoint)
            return self._token

    async def _authenticate(self, endpoint: Endpoint) -> str:
        name = self.settings.user
        request = pb.AuthenticateRequest(name=name, password=password(self.settings))
        try:
            return (await self._send(endpoint, AUTHENTICATE, request, f"etcd user {name!r}", "")).token
        except PermanentError as error:
            if error.what == AUTH_OFF:
                return ""
            error.remedy = f"correct etcd.user or {self.settings.password_file}"
            raise

    def _channel(self, endpoint: Endpoint) -> Any:
        if self._closed:
            raise PermanentError("the etcd client is closed", remedy="open a new one")
        if endpoint not in self._channels:
            self._channels[endpoint] = self._dial(endpoint)
        return self._channels[endpoint]

    def _dial(self, endpoint: Endpoint) -> Any:
        if not endpoint.secure:
            return grpc.aio.insecure_channel(endpoint.target, CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(endpoint.target, credentials(self.settings), CHANNEL_OPTIONS)

    def _drop(self, endpoint: Endpoint, channel: Any) -> None:
        """Forget a channel that lost its connection, unless that was done already."""
        if endpoint in self._channels and self._channels[endpoint] is channel:
            del self._channels[endpoint]
            closing = asyncio.ensure_future(channel.close())
            self._dropped.add(closing)
            closing.add_done_callback(self._dropped.discard)

    @contextmanager
    def judged(self, endpoint: Endpoint, channel: Any, place: str) -> Iterator[None]:
        """Turn what gRPC raises into the errors of this module."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if _lost_connection(error):
                self._drop(endpoint, channel)
            raise _error(endpoint, error, place) from error
        except asyncio.InvalidStateError as error:
            raise EndpointFault("the stream has ended", place=endpoint.url) from error
        except asyncio.CancelledError:
            # gRPC says the same when the channel was closed under a call as when the caller is cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise EndpointFault("the connection was closed", place=endpoint.url) from None


def _pack(request: Message) -> bytes:
    return request.SerializeToString()


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (LEADER_WANTED, ("token", token)) if token else (LEADER_WANTED,)


def _away(faults: list[EndpointFault]) -> TemporaryError:
    """One line for all endpoints, each with its own reason."""
    said = "; ".join(f"{fault.place}: {fault.what}" for fault in faults)
    error = TemporaryError(
        f"no endpoint serves the request: {said}", place="etcd", remedy="start etcd or correct etcd.endpoints"
    )
    error.__cause__ = faults[-1]
    return error
