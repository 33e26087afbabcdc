/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A packet that one node sends another through this one. It is encrypted and stays
 * so: both its addresses and ports are replaced, nothing else is known or needed.
 *
 *      A, socket s --> our port for B | our port for A --> B, socket t
 *
 * Only a socket that is known to be a node's is served, and only towards the other
 * end of the tunnel that the socket is of; each node has a rate. What comes from
 * anywhere else is none of our business. It is one hop: a node's socket is never a
 * relay's port.
 */
#ifndef MESHFABRIC_RELAY_H
#define MESHFABRIC_RELAY_H

#include "class.h"
#include "deliver.h"
#include "outer.h"
#include "rewrite.h"

#define RELAY_BURST_NS (20 * 1000 * 1000LL) /* of a node's rate at once */
enum relay_unit { PS_PER_NS = 1000 };
enum hops_field { TTL_AT_4 = 8, HOP_LIMIT_AT_6 = 7 };

static __always_inline bool is_relay_port(__u32 port)
{
	return relay_port_base && port - relay_port_base < RELAY_PORTS;
}

static __always_inline __be16 relay_port(const struct relay_end *end)
{
	return bpf_htons(relay_port_base + end->number * PORTS_OF_ONE + end->generation * MAX_SLOTS +
			 end->local);
}

/* The end that a port is for, of a packet from that other end; the two make a tunnel, if it is there at all. */
static __always_inline bool facing(const struct relay_end *from, __u32 port, struct relay_end *to)
{
	to->number = port / PORTS_OF_ONE;
	to->local = port % MAX_SLOTS;
	to->generation = port / MAX_SLOTS % GENERATIONS;
	to->remote = from->local;
	return to->local == from->remote && to->generation == from->generation && to->number != from->number;
}

/* A token bucket, kept as the time until which all is spent. Two CPUs may spend the same twice. */
static __always_inline bool spend_rate(__u32 number, __u32 bytes)
{
	struct budget *budget = bpf_map_lookup_elem(&relay_budgets, &number);
	__s64 now_ns = bpf_ktime_get_ns();

	if (!budget)
		return false;
	__s64 from_ns = budget->spent_ns > now_ns ? budget->spent_ns : now_ns;
	if (from_ns > now_ns + RELAY_BURST_NS)
		return false;
	budget->spent_ns = from_ns + (__u64)bytes * relay_ps_per_byte / PS_PER_NS;
	return true;
}

static __always_inline bool has_hops(struct __sk_buff *skb, const struct outer *o)
{
	__u8 hops = 0;

	bpf_skb_load_bytes(skb, ETH_HLEN + (o->version == 4 ? TTL_AT_4 : HOP_LIMIT_AT_6), &hops,
			   sizeof(hops));
	return hops > 1;
}

static __always_inline bool is_of_family(const struct addr *a, __u32 version)
{
	return (a->half[0] == 0 && a->word[2] == bpf_htonl(0xffff)) == (version == 4);
}

/* Both ends, each with its port: from our name for the sender to the receiver's own. */
static __noinline bool readdress(struct __sk_buff *skb, const struct outer *o, const struct relay_end *from,
				 const struct relay_target *target)
{
	struct packet p = {.version = o->version, .transport = o->transport};
	struct udphdr udp;

	p.key.protocol = IPPROTO_UDP;
	if (bpf_skb_load_bytes(skb, o->transport, &udp, sizeof(udp)) ||
	    !decrease_ttl(skb, ETH_HLEN, o->version))
		return false;
	struct move move = {.from = o->source,
			    .to = target->source,
			    .port_from = udp.source,
			    .port_to = relay_port(from)};
	if (!move_end(skb, &p, ETH_HLEN, &move))
		return false;
	move.from = o->destination;
	move.to = target->addr;
	move.port_from = udp.dest;
	move.port_to = target->port;
	move.destination = true;
	return move_end(skb, &p, ETH_HLEN, &move);
}

/* A packet without a tag (is_for_us). What its caller read of it is read again: the stack is short. */
static __noinline int relay(struct __sk_buff *skb, __u32 port)
{
	struct relay_source_key socket = {};
	struct relay_end to = {};
	struct outer o;

	if (!read_outer(skb, &o))
		return TC_ACT_UNSPEC;
	socket.addr = o.source;
	if (bpf_skb_load_bytes(skb, o.transport, &socket.port, sizeof(socket.port)))
		return TC_ACT_UNSPEC;
	struct relay_source *from = bpf_map_lookup_elem(&relay_sources, &socket);
	if (!from || from->ifindex != skb->ifindex || !same_addr(&from->own, &o.destination))
		return TC_ACT_UNSPEC;
	struct relay_target *target =
		facing(&from->end, port, &to) ? bpf_map_lookup_elem(&relay_ends, &to) : NULL;
	if (!target || !is_of_family(&target->addr, o.version))
		return drop(skb, NO_PATH);
	if (!has_hops(skb, &o))
		return drop(skb, TTL_EXPIRED);
	if (!spend_rate(from->end.number, skb->len))
		return drop(skb, RELAY_FULL);
	__u32 ifindex = target->ifindex, mark = target->mark, number = from->end.number;
	if (!readdress(skb, &o, &from->end, target))
		return drop(skb, MALFORMED);
	count(skb, RELAYED);
	skb->mark = mark;
	tell_class(skb, DEFAULT_CLASS, number); /* else it would be taken for WireGuard's own */
	return bpf_redirect_neigh(ifindex, NULL, 0, 0);
}

#endif
