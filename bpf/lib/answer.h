/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * From the world to a workload: an answer to a guise (nat.h), an ICMP error about
 * what left under one, or whatever is for an exposed address.
 *
 *      uplink --from_uplink--> take_answer --whose guise?--> flow, policy -> the workload
 *                  |                +-- nobody's: on to others' programs and the host
 *                  +---------> take_exposed --> flow, policy -> the workload, or a drop
 *
 * Nobody outside can begin anything by a guise: without a living flow the packet is
 * none of our business.
 */
#ifndef MESHFABRIC_ANSWER_H
#define MESHFABRIC_ANSWER_H

#include "deliver.h"
#include "exposed.h"
#include "fragment.h"
#include "nat.h"
#include "rewrite.h"
#include "way.h"

static __always_inline struct guise guise_of(const struct packet *p, __u32 which)
{
	struct guise guise = {.addr = addr_of(p, which), .port = port_of(p, which)};

	return guise;
}

/* The living flow that goes by the guise at one end of a packet. */
static __always_inline struct flow *flow_behind(const struct nat *one, const struct guise *guise)
{
	struct flow *flow = flow_of(&one->flow);

	return flow && goes_by(flow, guise) && !is_over(flow, one->flow.protocol) ? flow : NULL;
}

/* Of an established flow: out of the table that a flood may sweep. */
static __noinline bool promote_nat(const struct flow_key *seen)
{
	struct nat *one = bpf_map_lookup_elem(&new_nat, seen);

	if (!one)
		return false;
	struct nat answered = *one;
	answered.taken = 0;
	if (bpf_map_update_elem(&nat, seen, &answered, BPF_NOEXIST))
		return false;
	return !bpf_map_delete_elem(&new_nat, seen);
}

static __always_inline void aim_at(struct move *move, const struct guise *guise, const struct nat *one,
				   bool destination)
{
	move->from = guise->addr;
	move->port_from = guise->port;
	move->to = one->inside ? one->flow.addr[1] : one->flow.addr[0];
	move->port_to = one->inside ? one->flow.port[1] : one->flow.port[0];
	move->destination = destination;
}

/* As the flow has it, and never the first packet of another one. */
static __always_inline void seen_from_inside(struct packet *p, const struct nat *one)
{
	p->key = one->flow;
	p->swapped = !one->inside;
	p->role = ANSWERS;
}

/* The end of a packet from the world. Who sent it is told by whom it was for: the name of the node, or an exposed
 * one, which the uplink's program lets pass by its mark. */
static __noinline int complain_abroad(struct __sk_buff *skb, const struct packet *p, __u32 place, __u32 mtu)
{
	int verdict = drop(skb, mtu ? TOO_BIG : TTL_EXPIRED);
	struct addr speaker = addr_of(p, destination_end(p));

	if (!may_be_told(p))
		return verdict;
	if (!spend_token(place)) {
		count(skb, ERROR_WITHHELD);
		return verdict;
	}
	if (!write_error(skb, p, mtu, &speaker))
		return verdict;
	count(skb, mtu ? TOO_BIG_TOLD : EXPIRED_TOLD);
	skb->mark = is_exposed(&speaker) ? fabric_mark : 0;
	return bpf_redirect_neigh(skb->ifindex, NULL, 0, 0);
}

/* Does it go no further than here, and by which MTU (NO_HOP_LEFT: by none)? */
static __always_inline bool ends_here(struct __sk_buff *skb, const struct packet *p, __u32 place, __u32 *mtu)
{
	struct workload *workload = bpf_map_lookup_elem(&workloads, &place);

	*mtu = workload && p->ttl > 1 ? workload->mtu : NO_HOP_LEFT;
	return p->ttl <= 1 || (workload && is_too_big(skb, p, ETH_HLEN, workload->mtu));
}

/* Is it for a flow that lives? Then the packet is told of as the flow has it, and the move is how it becomes
 * that. (Apart from its caller, whose stack is short.) */
static __noinline bool recognise(struct packet *p, struct move *move)
{
	struct guise guise = guise_of(p, destination_end(p));
	struct flow_key seen = p->key;
	struct nat *one = nat_of(&seen);
	struct flow *flow = one ? flow_behind(one, &guise) : NULL;

	if (!flow)
		return false;
	aim_at(move, &guise, one, true);
	note_first_fragment(p);
	if (is_established(flow))
		promote_nat(&seen);
	seen_from_inside(p, one);
	return true;
}

/* TC_ACT_UNSPEC: not for a workload. */
static __noinline int take_answer(struct __sk_buff *skb, struct packet *p, struct move *move)
{
	__u32 mtu;

	if (!recognise(p, move))
		return TC_ACT_UNSPEC;
	int place = find_place(skb, p, ETH_HLEN);
	if (place < 0)
		return drop(skb, -place);
	if (ends_here(skb, p, place, &mtu)) {
		if (parse_frame(skb, p)) /* as the world sent it, which it still is */
			return drop(skb, MALFORMED);
		return complain_abroad(skb, p, place, mtu);
	}
	if (!move_end(skb, p, ETH_HLEN, move))
		return drop(skb, MALFORMED);
	return to_local(skb, p, ETH_HLEN, place, RECEIVING);
}

/* The local end of a flow that may still be, 0: it may not. */
static __always_inline __u32 home_of(const struct flow *flow, const struct packet *sent)
{
	__u32 place = flow->place[sender_in(flow, sent)];

	return is_current(flow) && place < FIRST_NODE ? place : 0;
}

/* An ICMP error about what left under a guise, from anyone on the way (RFC 5508, 4.2). */
static __noinline int take_error(struct __sk_buff *skb, struct packet *p, struct move *move)
{
	__u32 l3 = p->transport + sizeof(struct icmp_head), home;
	struct packet quoted = {};

	if (parse_at(skb, l3, p->version, true, &quoted))
		return TC_ACT_UNSPEC;
	struct guise guise = guise_of(&quoted, source_end(&quoted));
	struct nat *one = nat_of(&quoted.key);
	struct flow *flow = one ? flow_behind(one, &guise) : NULL;
	struct addr receiver = addr_of(p, destination_end(p));
	if (!flow || !same_addr(&receiver, &guise.addr))
		return TC_ACT_UNSPEC;
	aim_at(move, &guise, one, false);
	struct packet sent = {.key = one->flow, .swapped = one->inside};
	home = home_of(flow, &sent);
	if (!home)
		return drop(skb, POLICY_INGRESS);
	if (!move_quoted(skb, &quoted, l3, move, p->transport + ICMP_CHECK_AT))
		return drop(skb, MALFORMED);
	move->destination = true;
	if (!move_end(skb, p, ETH_HLEN, move))
		return drop(skb, MALFORMED);
	return to_local(skb, p, ETH_HLEN, home, RECEIVING);
}

/* Not static, so that the verifier looks at it once. */
__noinline int from_world(struct __sk_buff *skb)
{
	__u32 only = 0;
	struct crossing *crossing = bpf_map_lookup_elem(&crossings, &only);
	struct packet p;

	if (!crossing || parse_frame(skb, &p))
		return TC_ACT_UNSPEC;
	return p.role == REPORTS ? take_error(skb, &p, &crossing->move)
				 : take_answer(skb, &p, &crossing->move);
}

/* An error may come from anyone on the way, and is for whom it quotes. */
static __noinline int quoted_home(struct __sk_buff *skb, const struct packet *p)
{
	struct packet quoted = {};

	if (parse_at(skb, p->transport + sizeof(struct icmp_head), p->version, true, &quoted))
		return 0;
	struct addr receiver = addr_of(p, destination_end(p)), sender = addr_of(&quoted, source_end(&quoted));
	struct flow *flow = find_flow(&quoted);
	if (!flow || flow->nat_port || is_over(flow, quoted.key.protocol) || !same_addr(&receiver, &sender) ||
	    flow->place[!sender_in(flow, &quoted)] != WORLD)
		return 0;
	return home_of(flow, &quoted);
}

/* For an exposed address, from no fabric address: it goes to the workload or nowhere. */
__noinline int from_world_bare(struct __sk_buff *skb)
{
	struct packet p;
	int reason = parse_frame(skb, &p);
	__u32 mtu;

	if (reason)
		return drop(skb, reason);
	int place = p.role == REPORTS ? quoted_home(skb, &p) : 0;
	if (!place)
		place = find_place(skb, &p, ETH_HLEN);
	if (place < 0)
		return drop(skb, -place);
	note_first_fragment(&p);
	if (ends_here(skb, &p, place, &mtu))
		return complain_abroad(skb, &p, place, mtu);
	return to_local(skb, &p, ETH_HLEN, place, RECEIVING);
}

#endif
