/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * From a workload to the world: out of the uplink that the kernel's routes name,
 * seen as the node itself (nat.h) unless the workload is exposed.
 *
 *      workload --from_workload: policy, flow--> leave --guise--> next hop of an uplink
 *
 * Nothing is forwarded by the kernel: a route is looked up as for a packet of the
 * host's own pair, whose device alone is allowed to forward. What the routes deliver
 * to this node, and what they send out of a device that is no uplink, has no route.
 */
#ifndef MESHFABRIC_WORLD_H
#define MESHFABRIC_WORLD_H

#include "deliver.h"
#include "exposed.h"
#include "guise.h"
#include "rewrite.h"

/* linux/socket.h's, whose header is not for this machine. */
enum address_family { FAMILY_4 = 2, FAMILY_6 = 10 };

/* What has ports that a translator can change. SCTP sums up its header by a CRC of the whole packet. */
static __always_inline bool is_translated(const struct packet *p)
{
	switch (p->key.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return true;
	default:
		return is_icmp(p->key.protocol) && p->role != STANDS_ALONE;
	}
}

/* 0, or why the packet may not leave for the world, whatever its policy says. */
static __noinline int refused_by_world(const struct packet *p)
{
	struct addr source = addr_of(p, source_end(p));

	if (is_exposed(&source))
		return 0;
	if (!world_ports)
		return NO_ROUTE;
	return is_translated(p) ? 0 : UNSUPPORTED;
}

/* The device that may forward: of the host, the only one whose packets are the node's own. */
static __always_inline __u32 host_device(void)
{
	__u32 only = 0;
	struct fabric *f = bpf_map_lookup_elem(&fabric, &only);

	if (!f)
		return 0;
	__u32 self = f->self;
	struct workload *host = bpf_map_lookup_elem(&workloads, &self);
	return host ? host->ifindex : 0;
}

static __always_inline void ask_about(struct __sk_buff *skb, const struct packet *p,
				      struct bpf_fib_lookup *route)
{
	struct addr source = addr_of(p, source_end(p)), destination = addr_of(p, destination_end(p));

	route->family = p->version == 4 ? FAMILY_4 : FAMILY_6;
	route->l4_protocol = p->key.protocol;
	route->sport = port_of(p, source_end(p));
	route->dport = port_of(p, destination_end(p));
	route->ifindex = host_device();
	route->tot_len = skb->gso_size ? segment_length(skb, p, ETH_HLEN) : p->length;
	if (p->version == 4) {
		route->ipv4_src = source.word[3];
		route->ipv4_dst = destination.word[3];
	} else {
		__builtin_memcpy(route->ipv6_src, &source, sizeof(source));
		__builtin_memcpy(route->ipv6_dst, &destination, sizeof(destination));
	}
}

static __always_inline void note_next_hop(const struct bpf_fib_lookup *route, struct way_out *out)
{
	out->ifindex = route->ifindex;
	out->next.nh_family = route->family;
	if (route->family == FAMILY_4)
		out->next.ipv4_nh = route->ipv4_dst;
	else
		__builtin_memcpy(out->next.ipv6_nh, route->ipv6_dst, sizeof(route->ipv6_dst));
}

static __noinline bool is_uplink(struct way_out *out, __u32 version)
{
	for (__u32 slot = 0; slot < MAX_SLOTS; slot++) {
		__u32 at = slot;
		struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &at);
		if (uplink && uplink->ifindex && uplink->ifindex == out->ifindex) {
			out->source = version == 4 ? uplink->address[0] : uplink->address[1];
			return true;
		}
	}
	return false;
}

/* 0, or why there is no way. The neighbour need not be known yet: sending asks for it. */
static __noinline int find_way_out(struct __sk_buff *skb, const struct packet *p, struct crossing *crossing)
{
	struct bpf_fib_lookup *route = &crossing->route;

	__builtin_memset(route, 0, sizeof(*route));
	ask_about(skb, p, route);
	long found = bpf_fib_lookup(skb, route, sizeof(*route), 0);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		crossing->out.mtu = route->mtu_result;
		return TOO_BIG;
	}
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return NO_ROUTE;
	note_next_hop(route, &crossing->out);
	return is_uplink(&crossing->out, p->version) ? 0 : NO_ROUTE;
}

static __always_inline bool is_none(const struct addr *a)
{
	return !(a->half[0] | a->half[1]);
}

/* An ICMP error, which is about what the world sent to a guise. */
static __noinline int translate_error(struct __sk_buff *skb, const struct packet *p, struct move *move)
{
	__u32 l3 = p->transport + sizeof(struct icmp_head);
	struct packet quoted = {};

	if (parse_at(skb, l3, p->version, true, &quoted) || quoted.role == REPORTS)
		return UNSUPPORTED;
	struct flow *flow = find_flow(&quoted);
	struct addr receiver = addr_of(&quoted, destination_end(&quoted));
	move->from = addr_of(p, source_end(p));
	if (!flow || !flow->nat_port || !same_addr(&receiver, &move->from))
		return UNSUPPORTED;
	move->to = flow->nat_addr;
	move->port_from = port_of(&quoted, destination_end(&quoted));
	move->port_to = flow->nat_port;
	move->destination = true;
	if (!move_quoted(skb, &quoted, l3, move, p->transport + ICMP_CHECK_AT))
		return MALFORMED;
	move->destination = false;
	return move_end(skb, p, ETH_HLEN, move) ? 0 : MALFORMED;
}

/* 0, or why it cannot leave in the node's name. */
static __noinline int translate(struct __sk_buff *skb, const struct packet *p, struct crossing *crossing)
{
	struct move *move = &crossing->move;

	if (!world_ports) /* any more */
		return NO_ROUTE;
	if (p->role == REPORTS)
		return translate_error(skb, p, move);
	if (is_none(&crossing->out.source))
		return NO_ROUTE;
	int reason = choose_guise(p, &crossing->out.source, &crossing->search);
	if (reason)
		return reason;
	move->from = addr_of(p, source_end(p));
	move->to = crossing->search.guise.addr;
	move->port_from = port_of(p, source_end(p));
	move->port_to = crossing->search.guise.port;
	move->destination = false;
	return move_end(skb, p, ETH_HLEN, move) ? 0 : MALFORMED;
}

/* The segments that a workload asks the world for must fit into its own device. */
static __always_inline void fit_own_mss(struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	__u32 *place = bpf_map_lookup_elem(&devices, &ifindex);

	if (place && tells_mss(p))
		fit_mss(skb, p, ETH_HLEN, *place);
}

static __always_inline int send_out(struct __sk_buff *skb, const struct packet *p, struct way_out *out,
				    bool bare)
{
	if (!decrease_ttl(skb, ETH_HLEN, p->version) ||
	    !set_link_header(skb, (void *)gateway_mac, p->version))
		return drop(skb, MALFORMED);
	count(skb, FORWARDED_TO_WORLD);
	skb->mark = bare ? fabric_mark : 0; /* the uplink's program lets no other fabric address pass */
	return bpf_redirect_neigh(out->ifindex, &out->next, sizeof(out->next), 0);
}

/* Does it leave as it is? A flow that has a guise keeps it. */
static __noinline bool is_bare(const struct packet *p)
{
	struct addr source = addr_of(p, source_end(p));

	if (!is_exposed(&source))
		return false;
	struct flow *flow = find_flow(p);
	return !world_ports || !flow || !flow->nat_port;
}

/* Not static, so that the verifier looks at it once, and not in every state that its callers are in. */
__noinline int leave(struct __sk_buff *skb, struct packet *given)
{
	__u32 only = 0;
	struct crossing *crossing = bpf_map_lookup_elem(&crossings, &only);

	if (!given || !crossing)
		return TC_ACT_SHOT;
	struct packet own = *given, *p = &own; /* before Linux 6.3 no map takes a key out of what was given */
	if (p->ttl <= 1)
		return complain(skb, p, NO_HOP_LEFT);
	int reason = find_way_out(skb, p, crossing);
	if (reason)
		return reason == TOO_BIG ? complain(skb, p, crossing->out.mtu) : drop(skb, reason);
	bool bare = is_bare(p);
	fit_own_mss(skb, p);
	reason = bare ? 0 : translate(skb, p, crossing);
	return reason ? drop(skb, reason) : send_out(skb, p, &crossing->out, bare);
}

#endif
