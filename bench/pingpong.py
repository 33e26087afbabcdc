"""One small message to and fro by TCP, over and over: run as a script inside namespaces.

    pong HOST PORT            accept connections, one after the other, and return each message
    ping HOST PORT SECONDS    send and wait for the answer; ends with a line of JSON

Standard library only and no import of ours, so that it starts quickly anywhere.
`throughput` is its other end.
"""

import json
import socket
import sys
import time

MESSAGE = bytes(64)
TIMEOUT_S = 10.0
WARM_UP = 200
PERCENT = 99


def pong(host: str, port: str) -> None:
    """Until killed."""
    with socket.create_server((host, int(port))) as listener:
        print("listening", flush=True)
        while True:
            link, _ = listener.accept()
            with link:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while message := link.recv(len(MESSAGE), socket.MSG_WAITALL):
                    link.sendall(message)


def ping(host: str, port: str, seconds: str) -> None:
    """Round trips for so long: how many, their rate, median and 99th percentile in microseconds."""
    times: list[int] = []
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(None)  # with a timeout each call would poll first
        for _ in range(WARM_UP):
            _round_trip(link)
        begun = now = time.perf_counter_ns()
        end = begun + int(float(seconds) * 1e9)
        while now < end:
            _round_trip(link)
            then, now = now, time.perf_counter_ns()
            times.append(now - then)
    times.sort()
    print(
        json.dumps(
            {
                "rate": len(times) / (now - begun) * 1e9,
                "median_us": times[len(times) // 2] / 1e3,
                "p99_us": times[len(times) * PERCENT // 100] / 1e3,
            }
        )
    )


def _round_trip(link: socket.socket) -> None:
    link.send(MESSAGE)
    link.recv(len(MESSAGE), socket.MSG_WAITALL)


if __name__ == "__main__":
    if sys.argv[1] == "pong":
        pong(*sys.argv[2:])
    else:
        ping(*sys.argv[2:])
