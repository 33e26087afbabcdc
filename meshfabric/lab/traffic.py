"""Traffic between workloads of a lab, and what became of it: run as a script inside their namespaces.

Standard library only and no import of meshfabric, so that it starts quickly in
any namespace. Every role ends with one line of JSON. `measure` is its other end.

    send     TCP: connect, send SIZE bytes, tell their hash, and the seconds until all had arrived
    receive  TCP: accept one connection, tell bytes and hash
    say      UDP: one numbered datagram each INTERVAL_MS until standard input ends, then a few that say "end"
    hear     UDP: tell how many came, how many did not, and the longest silence
"""

import contextlib
import hashlib
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

CHUNK = 1 << 20
DATAGRAM = struct.Struct("!Q")
END = (1 << 64) - 1
ENDS = 20  # some will arrive
SILENCE_S = 20.0
BEGUN = "begun"  # said as soon as there is somebody to listen, or to be listened to
MS = 1000


def send(host: str, port: str, size: str, connect_s: str) -> dict[str, object]:
    """Pseudo-random bytes, different in each megabyte, so that nothing misplaced goes unseen."""
    left, digest, block = (
        int(size),
        hashlib.sha256(),
        bytearray(hashlib.shake_128(host.encode()).digest(CHUNK)),
    )
    with socket.create_connection((host, int(port)), timeout=float(connect_s)) as link:
        link.settimeout(SILENCE_S)
        begun = time.monotonic()
        while left:
            block[:8] = struct.pack("!Q", left)
            part = memoryview(block)[: min(left, CHUNK)]
            digest.update(part)
            link.sendall(part)
            left -= len(part)
        link.shutdown(socket.SHUT_WR)
        link.recv(1)  # the far end closes when it has all
        seconds = time.monotonic() - begun
    return {"bytes": int(size), "sha256": digest.hexdigest(), "seconds": seconds}


def receive(host: str, port: str) -> dict[str, object]:
    """One connection to its end."""
    digest, got, buffer = hashlib.sha256(), 0, bytearray(CHUNK)
    with _listener(host, port) as listener:
        print(BEGUN, flush=True)
        link, _ = listener.accept()
        with link:
            while size := link.recv_into(buffer):
                digest.update(memoryview(buffer)[:size])
                got += size
    return {"bytes": got, "sha256": digest.hexdigest()}


def say(host: str, port: str, interval_ms: str) -> dict[str, object]:
    """Evenly, whether anybody hears it or not."""
    interval, sent = float(interval_ms) / MS, 0
    with _datagrams(host) as link:
        print(BEGUN, flush=True)
        begun = time.monotonic()
        while not select.select([sys.stdin], [], [], max(begun + sent * interval - time.monotonic(), 0))[0]:
            _try_send(link, DATAGRAM.pack(sent), host, port)
            sent += 1
        for _ in range(ENDS):
            time.sleep(interval)
            _try_send(link, DATAGRAM.pack(END), host, port)
    return {"sent": sent}


def hear(host: str, port: str) -> dict[str, object]:
    """`silence_ms` is the longest time between two datagrams, `after` the number that ended it."""
    seen: set[int] = set()
    silence = last = 0.0
    after = 0
    with _datagrams(host) as link:
        link.bind((host, int(port)))
        link.settimeout(SILENCE_S)
        print(BEGUN, flush=True)
        while (number := DATAGRAM.unpack(link.recv(DATAGRAM.size))[0]) != END:
            now = time.monotonic()
            if last and now - last > silence:
                silence, after = now - last, number
            last = now
            seen.add(number)
    lost = max(seen, default=-1) + 1 - len(seen)
    return {"heard": len(seen), "lost": lost, "silence_ms": silence * MS, "after": after}


def _try_send(link: socket.socket, data: bytes, host: str, port: str) -> None:
    with contextlib.suppress(OSError):  # the far end tells it as lost
        link.sendto(data, (host, int(port)))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _listener(host: str, port: str) -> socket.socket:
    return socket.create_server((host, int(port)), family=_family(host))


def _datagrams(host: str) -> socket.socket:
    return socket.socket(_family(host), socket.SOCK_DGRAM)


ROLES: dict[str, Callable[..., dict[str, object]]] = {
    "send": send,
    "receive": receive,
    "say": say,
    "hear": hear,
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](*sys.argv[2:])), flush=True)
