/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What the loader may set before the programs are loaded; the values here hold
 * otherwise. The verifier takes them for constants.
 */
#ifndef MESHFABRIC_SETTINGS_H
#define MESHFABRIC_SETTINGS_H

#include <linux/types.h>

const volatile __u16 wg_port_base = 51820; /* UDP port of uplink 0 towards slot 0 */
const volatile __u16 plain_port = 0; /* UDP port of all tunnels without encryption; 0: there are none */
const volatile __u32 plain_mark = 0; /* of uplink 0: what comes or goes in clear has that of its uplink */
const volatile __u8 plain_slots = 0; /* the uplinks by which it may: bit 0 is uplink 0 */
const volatile __u16 relay_port_base = 0; /* where others' packets come that go on from here; 0: none do */
const volatile __u32 relay_ps_per_byte = 0; /* what each node that they are of has to wait for; 0: nothing */
const volatile __u16 world_port_base = 61000; /* the first of the ports that translated flows come from */
const volatile __u16 world_ports = 0; /* how many there are; 0: nothing is translated */
const volatile __u64 probe_interval_ns = 50 * 1000 * 1000;
const volatile __u64 probe_grace_ns = 5 * 1000 * 1000; /* scheduling noise at both ends */
const volatile __u64 probe_idle_ns = 1000 * 1000 * 1000; /* from probe to probe where there is no traffic */
const volatile __u32 loss_limit =
	7; /* of 64 probes without an answer: a path that loses as many is lossy; 0: none is */
const volatile __u32 rtt_limit_us = 300 * 1000; /* a path whose round trips take longer is slow; 0: none is */
const volatile __u64 longest_hold_ns =
	32ULL * 1000 * 1000 * 1000; /* of a path that was left again and again */
const volatile __u8 flows_shared =
	0; /* whether any node's are: connections are watched, and moved if they suffer */
const volatile __u32 largest_share = 32768; /* of one workload, in established flows */
const volatile __u8 wg_keeps_hash =
	1; /* whether a packet's hash crosses WireGuard: where the kernel runs it */
const volatile __u32 tunnel_mark =
	0; /* WireGuard's of uplink 0 towards slot 0; 0: no packet is looked at for it */
const volatile __u64 horizon_ns = 50 * 1000 * 1000; /* what would wait longer for an uplink is dropped, */
const volatile __u64 congested_ns = 5 * 1000 * 1000; /* and longer than this tells of congestion (ECN) */
const volatile __u32 fabric_mark = 0x6d667061; /* on a packet between two of these programs */

/* Of 169.254.1.1 and fe80::6d66, on every device; locally administered (IEEE 802, 8.2). */
const volatile __u8 gateway_mac[6] __attribute__((aligned(8))) = {0x02, 0x6d, 0x66, 0x00, 0x00, 0x01};

#endif
