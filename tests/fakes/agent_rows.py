"""What an agent of a small fabric tells: three nodes, two uplinks, one path down."""

from typing import Any

from meshfabric.api.messages import Simulate

STATUS: dict[str, Any] = {
    "fabric": "lab",
    "node": "edge-1",
    "kind": "metal",
    "version": "0.1.0",
    "ready": True,
    "uptime_s": 11042.7,
    "store": {"connected": True, "revision": 4217, "detail": ""},
    "nodes": {"known": 3, "alive": 2},
    "endpoints": 5,
    "workloads": 2,
    "policies": 3,
    "wireguard": "userspace 0.0.20231211",
    "attach": "tcx",
    "mtu": 1380,
    "keys": {"epoch": 4, "due": 5, "under_way": True, "waiting_for": ["edge-3"]},
    "refused": [
        {
            "key": "endpoints/edge-3/10.88.9.9",
            "why": "10.88.9.9 is in no block of edge-3; the last good record stays in force",
        }
    ],
    "failing": [],
    "held": "",
    "drift_repaired": 1,
    "events": [
        {
            "time": "2026-11-21T07:46:12Z",
            "name": "path-down",
            "detail": "edge-3 up1@blue: no answer for 25 ms",
        },
        {"time": "2026-11-21T07:46:13Z", "name": "path-switch", "detail": "edge-3: up1 to up0"},
    ],
}

NODES: list[dict[str, Any]] = [
    {
        "node": "edge-1",
        "kind": "metal",
        "alive": True,
        "addresses": "10.88.1.1, fd00:88:1::1",
        "blocks": "10.88.1.0/24, fd00:88:1::/64",
        "uplinks": "up0@red 192.0.2.1, up1@blue 198.51.100.1",
        "paths": "this node",
        "wireguard": "userspace",
        "version": "0.1.0",
    },
    {
        "node": "hypervisor-frankfurt-07",
        "kind": "vm",
        "alive": True,
        "addresses": "10.88.2.1, fd00:88:2::1",
        "blocks": "10.88.2.0/24, fd00:88:2::/64",
        "uplinks": "up0@red 192.0.2.2, up1@blue 198.51.100.2",
        "paths": "2/2 up",
        "wireguard": "userspace",
        "version": "0.1.0",
    },
    {
        "node": "edge-3",
        "kind": "kubernetes",
        "alive": False,
        "addresses": "10.88.3.1",
        "blocks": "10.88.3.0/24",
        "uplinks": "up0@red 192.0.2.3",
        "paths": "0/1 up",
        "wireguard": "kernel",
        "version": "",
    },
]

ENDPOINTS: list[dict[str, Any]] = [
    {
        "address": "10.88.1.1",
        "workload": "edge-1",
        "kind": "host",
        "node": "edge-1",
        "labels": "meshfabric.io/kind=host,meshfabric.io/node=edge-1",
        "identity": 256,
        "local": True,
    },
    {
        "address": "10.88.1.7",
        "workload": "shop/web-0",
        "kind": "pod",
        "node": "edge-1",
        "labels": "app=web,tier=gold",
        "identity": 257,
        "local": True,
    },
    {
        "address": "fd00:88:2::9",
        "workload": "db",
        "kind": "vm",
        "node": "hypervisor-frankfurt-07",
        "labels": "",
        "identity": 258,
        "local": False,
    },
]

PATHS: list[dict[str, Any]] = [
    {
        "node": "hypervisor-frankfurt-07",
        "device": "mfwg00",
        "local": "up0",
        "remote": "up0",
        "segment": "red",
        "endpoint": "192.0.2.2:51820",
        "generation": 0,
        "state": "up",
        "active": True,
        "mtu": 1380,
        "rtt_ms": 0.4123,
        "sent": 120412,
        "heard": 120411,
        "flaps": 0,
        "handshake_s": 72,
        "rx_bytes": 9812376,
        "tx_bytes": 1203,
    },
    {
        "node": "hypervisor-frankfurt-07",
        "device": "mfwg11",
        "local": "up1",
        "remote": "up1",
        "segment": "blue",
        "endpoint": "[2001:db8:100::2]:51829",
        "generation": 0,
        "state": "down",
        "active": False,
        "mtu": 1280,
        "rtt_ms": None,
        "sent": 120412,
        "heard": 3,
        "flaps": 4,
        "handshake_s": None,
        "rx_bytes": 0,
        "tx_bytes": 734003200,
    },
    {
        "node": "edge-3",
        "device": "mfwg00",
        "local": "up0",
        "remote": "up0",
        "segment": "red",
        "endpoint": "192.0.2.3:51820",
        "generation": 0,
        "state": "new",
        "active": True,
        "mtu": 1380,
        "rtt_ms": None,
        "sent": 20,
        "heard": 0,
        "flaps": 0,
        "handshake_s": None,
        "rx_bytes": 0,
        "tx_bytes": 2960,
    },
]

KEYS: list[dict[str, Any]] = [
    {
        "device": "mfwg00",
        "local": "up0",
        "remote": 0,
        "generation": 0,
        "epoch": 4,
        "taken": True,
        "age_s": 2_592_061,
        "peers": ["edge-3", "hypervisor-frankfurt-07"],
        "moved": ["edge-3"],
        "public_key": "kUyrLDeGArCpfYIjCW1pTk0nGUuKMUnjuPDhVgh1eWc=",
    },
    {
        "device": "mfwg00b",
        "local": "up0",
        "remote": 0,
        "generation": 1,
        "epoch": 5,
        "taken": False,
        "age_s": 41,
        "peers": ["hypervisor-frankfurt-07"],
        "moved": ["hypervisor-frankfurt-07"],
        "public_key": "o9UTkn7NNXePGUGxy8cF9rYJJTNfF4hLhFgrn6BVqXE=",
    },
]

POLICIES: list[dict[str, Any]] = [
    {
        "policy": "baseline:allow-local-host",
        "tier": "built in",
        "select": "*",
        "direction": "ingress",
        "action": "allow",
        "allows": "the workload's own node on anything",
        "expires": "",
        "selected": 2,
    },
    {
        "policy": "guests",
        "tier": "admin 10",
        "select": "kind=guest",
        "direction": "egress",
        "action": "deny",
        "allows": "app=db on anything",
        "expires": "2026-12-31T23:59:59Z",
        "selected": 1,
    },
    {
        "policy": "web-to-db",
        "tier": "normal",
        "select": "app=db",
        "direction": "ingress",
        "action": "allow",
        "allows": "app=web | tier in (gold, silver) on tcp/5432, udp/8000-8100, icmp",
        "expires": "",
        "selected": 0,
    },
    {
        "policy": "web-to-db",
        "tier": "normal",
        "select": "app=db",
        "direction": "egress",
        "action": "allow",
        "allows": "nothing",
        "expires": "",
        "selected": 0,
    },
]

AUDITS: list[dict[str, Any]] = [
    {
        "last": "2026-11-21T19:40:00Z",
        "count": 17,
        "direction": "ingress",
        "from": "shop/web-0 10.88.2.7",
        "to": "shop/db-0 10.88.1.9",
        "what": "tcp/5432",
        "policies": "database-soon",
        "first": "2026-11-21T19:12:31Z",
    },
    {
        "last": "2026-11-21T19:39:58Z",
        "count": 1,
        "direction": "egress",
        "from": "shop/db-0 10.88.1.9",
        "to": "198.51.100.7",
        "what": "udp/123",
        "policies": "database-soon, no-world",
        "first": "2026-11-21T19:39:58Z",
    },
]

DROPS: list[dict[str, Any]] = [
    {
        "reason": "policy_ingress",
        "packets": 1204,
        "bytes": 90312,
        "meaning": "no policy allows this sender to reach this workload",
    },
    {
        "reason": "source_spoofed",
        "packets": 0,
        "bytes": 0,
        "meaning": "the packet's source is not an address of the workload that sent it",
    },
]

FEATURES: list[dict[str, Any]] = [
    {"feature": "bpf", "present": True, "needed": True, "since": "4.4", "detail": "a program loads and runs"},
    {
        "feature": "netkit",
        "present": False,
        "needed": False,
        "since": "6.7",
        "detail": "Operation not supported",
    },
]

FABRIC: dict[str, Any] = {
    "fabric": "lab",
    "node": "edge-1",
    "etcd": ["http://192.0.2.250:2379"],
    "ca": "",
    "cert": "",
    "key": "",
    "user": "",
    "prefixes": ["10.88.0.0/16", "fd00:88::/32"],
}

SIMULATED: dict[str, Any] = {
    "changes": [
        {
            "from": "app=guest",
            "to": "app=db",
            "ports": "anything but tcp/5432",
            "before": "allowed",
            "after": "denied",
            "direction": "ingress",
            "before_by": "no policy",
            "after_by": "no-guests: deny app=guest on anything",
            "senders": 3,
            "receivers": 2,
            "flows": 1,
            "sender_examples": "edge-1/guest-1, edge-1/guest-2, edge-2/guest-3",
            "receiver_examples": "edge-2/shop/db-0, edge-3/shop/db-1",
        },
        {
            "from": "app=web | host edge-3 | host edge-2",
            "to": "app=db on other nodes",
            "ports": "tcp/5432",
            "before": "denied",
            "after": "allowed",
            "direction": "ingress",
            "before_by": "closed: no rule",
            "after_by": "web-to-db: allow app=web | tier in (gold, silver) on tcp/5432",
            "senders": 14,
            "receivers": 2,
            "flows": 0,
            "sender_examples": "edge-1/shop/web-0, edge-1/shop/web-1, edge-2/shop/web-2, +11",
            "receiver_examples": "edge-2/shop/db-0, edge-3/shop/db-1",
        },
    ],
    "changes_total": 2,
    "flows": [
        {
            "from": "edge-1/guest-1",
            "source": "[fd00:88:1::4]:40312",
            "to": "edge-2/shop/db-0",
            "destination": "[fd00:88:2::7]:22",
            "protocol": "tcp",
            "answered": True,
            "after": "denied",
        }
    ],
    "flows_total": 3,
    "flows_seen": 17,
    "absent": ["ghost"],
    "connected": True,
}

ANSWERS: dict[Any, Any] = {
    "status": STATUS,
    "nodes": NODES,
    "endpoints": ENDPOINTS,
    "paths": PATHS,
    "keys": KEYS,
    "policies": POLICIES,
    "audits": AUDITS,
    "drops": DROPS,
    "features": FEATURES,
    "fabric": FABRIC,
    Simulate: SIMULATED,
}
