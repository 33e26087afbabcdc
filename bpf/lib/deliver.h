/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The last step: to a workload of this node, or into a tunnel. A packet loses
 * one hop on its whole way, where it is delivered; what has none to lose ends at
 * the sender's node, which tells him.
 */
#ifndef MESHFABRIC_DELIVER_H
#define MESHFABRIC_DELIVER_H

#include <linux/if_packet.h>
#include "classify.h"
#include "complaint.h"
#include "demand.h"
#include "mss.h"
#include "suffer.h"

/* The length of each packet that a GSO packet will become, without link header. */
static __noinline __u32 segment_length(struct __sk_buff *skb, const struct packet *p, __u32 l3)
{
	__u32 headers = p->transport - l3;

	if (p->key.protocol != IPPROTO_TCP)
		return headers + sizeof(struct udphdr) + skb->gso_size;
	return headers + tcp_length(skb, p->transport) + skb->gso_size;
}

/* A redirect asks nobody about the MTU. */
static __always_inline bool is_too_big(struct __sk_buff *skb, const struct packet *p, __u32 l3, __u32 mtu)
{
	return p->length > mtu && (!skb->gso_size || segment_length(skb, p, l3) > mtu);
}

/* RFC 1624, equation 3, for a TTL that falls by one (as in Linux, ip_decrease_ttl). */
static __always_inline void decrease_ttl4(struct iphdr *ip)
{
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

static __always_inline bool decrease_ttl(struct __sk_buff *skb, __u32 l3, __u8 version)
{
	__u8 *ip = start_of(skb) + l3;

	if (ip + sizeof(struct iphdr) > (__u8 *)end_of(skb))
		return false;
	if (version == 4)
		decrease_ttl4((struct iphdr *)ip);
	else
		((struct ipv6hdr *)ip)->hop_limit--;
	return true;
}

/*
 * What a program interrupts. A received packet can go on into a pod at once
 * (bpf_redirect_peer), past the pod's own device on the node. A netkit pair runs
 * its programs while the pod sends, where the kernel refuses that: the packet goes
 * out of the receiver's device like one for a tap, and waits in the CPU's queue
 * for its reception. Each program is compiled for one of the two.
 */
enum moment { RECEIVING, SENDING };

static __always_inline int hand_over(struct __sk_buff *skb, const struct workload *workload,
				     enum moment moment)
{
	if (moment == SENDING || workload->delivery != DELIVER_PEER)
		return send_marked(skb, workload->ifindex, FORWARDED_TO_LOCAL);
	count(skb, FORWARDED_TO_LOCAL);
	if (skb->pkt_type != PACKET_HOST) /* the gateway's MAC is no device's, and the pod would not listen */
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(workload->ifindex, 0);
}

/* A packet that cannot go on. Who sent it is told where it came from a workload. What comes out of a tunnel
 * was judged by the sender's node, by the same MTU and with the same hops: its errors need no way back. */
static __always_inline int refuse(struct __sk_buff *skb, const struct packet *p, __u32 l3, __u32 mtu)
{
	return l3 ? complain(skb, p, mtu) : drop(skb, mtu ? TOO_BIG : TTL_EXPIRED);
}

/* `l3` is the length of the link header that the packet came with: ETH_HLEN or 0. What comes out of a tunnel
 * gets the header that pods and taps want (a bridge behind them, too). */
static __always_inline int to_local(struct __sk_buff *skb, const struct packet *p, __u32 l3, __u32 place,
				    enum moment moment)
{
	struct workload *workload = bpf_map_lookup_elem(&workloads, &place);

	if (!workload || !workload->ifindex)
		return drop(skb, NO_ROUTE);
	if (p->ttl <= 1)
		return refuse(skb, p, l3, NO_HOP_LEFT);
	if (is_too_big(skb, p, l3, workload->mtu))
		return refuse(skb, p, l3, workload->mtu);
	if (!decrease_ttl(skb, l3, p->version) || (!l3 && bpf_skb_change_head(skb, ETH_HLEN, 0)) ||
	    !set_link_header(skb, workload->mac, p->version))
		return drop(skb, MALFORMED);
	return hand_over(skb, workload, moment);
}

static __always_inline int to_node(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	__u32 node_index = place - FIRST_NODE;
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);

	if (!node || !node->order)
		return drop(skb, NO_PATH);
	if (p->ttl <= 1) /* it would end where it is delivered, with nobody to tell its sender */
		return complain(skb, p, NO_HOP_LEFT);
	if (flows_shared && node->shared)
		watch(skb, p, place);
	__u64 tunnel = choose_tunnel(node, node_index, &p->key);
	if (mtu_of(tunnel) && is_too_big(skb, p, ETH_HLEN, mtu_of(tunnel)))
		return complain(skb, p, mtu_of(tunnel));
	note_traffic(skb, node_index);
	tell_noted_class(skb, p, ETH_HLEN);
	return send_into_tunnel(skb, device_of(tunnel), skb->len - ETH_HLEN, place, FORWARDED_TO_NODE);
}

#endif
