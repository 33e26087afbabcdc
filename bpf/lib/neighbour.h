/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The gateway that every workload sees (gateway.h) exists only here: questions for
 * its link address are answered in place and go back where they came from.
 */
#ifndef MESHFABRIC_NEIGHBOUR_H
#define MESHFABRIC_NEIGHBOUR_H

#include <linux/icmpv6.h>
#include "address.h"
#include "gateway.h"
#include "verdict.h"

#define ALL_NODES {.byte = {0xff, 0x02, [15] = 0x01}} /* ff02::1 */

enum arp { ARP_ETHERNET = 1, ARP_REQUEST = 1, ARP_REPLY = 2 };

struct arp_packet {
	struct ethhdr eth;
	__be16 link_type;
	__be16 protocol_type;
	__u8 mac_length;
	__u8 address_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline bool asks_for_gateway4(const struct arp_packet *arp)
{
	return arp->link_type == bpf_htons(ARP_ETHERNET) && arp->protocol_type == bpf_htons(ETH_P_IP) &&
	       arp->mac_length == ETH_ALEN && arp->address_length == sizeof(__be32) &&
	       arp->operation == bpf_htons(ARP_REQUEST) && arp->target == GATEWAY4;
}

/* RFC 826: the request, turned round. */
static __always_inline void turn_arp(struct arp_packet *arp)
{
	__builtin_memcpy(arp->eth.h_dest, arp->eth.h_source, ETH_ALEN);
	copy_gateway_mac(arp->eth.h_source);
	arp->operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	arp->target = arp->sender;
	copy_gateway_mac(arp->sender_mac);
	arp->sender = GATEWAY4;
}

/* A frame that is not IP: ARP for the gateway is answered, other ARP stays on its link. */
static __noinline int not_ip(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(ETH_P_ARP))
		return drop(skb, NOT_IP);
	if (bpf_skb_pull_data(skb, sizeof(struct arp_packet)))
		return drop(skb, MALFORMED);
	struct arp_packet *arp = start_of(skb);
	if ((void *)(arp + 1) > end_of(skb))
		return drop(skb, MALFORMED);
	if (!asks_for_gateway4(arp))
		return drop(skb, LINK_SCOPE);
	turn_arp(arp);
	return send_marked(skb, skb->ifindex, NEIGHBOUR_ANSWERED);
}

enum neighbour_discovery {
	SOLICITATION = 135, /* RFC 4861, 4.3 */
	ADVERTISEMENT = 136, /* RFC 4861, 4.4 */
	ROUTER = 1u << 31, /* flags of an advertisement */
	SOLICITED = 1 << 30,
	OVERRIDE = 1 << 29,
	TARGET_LINK_ADDRESS = 2, /* option type; RFC 4861, 4.6.1 */
	FROM_THIS_LINK = 255, /* the only hop limit that no router can have made */
};

struct solicitation {
	struct icmp6hdr head;
	struct addr target;
};

struct advertisement {
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 flags;
	struct addr target;
	__u8 option;
	__u8 option_units;
	__u8 mac[ETH_ALEN];
} __attribute__((packed));

enum advertisement_size {
	ADVERTISEMENT_ICMP = sizeof(struct advertisement) - ETH_HLEN - sizeof(struct ipv6hdr),
};

static __always_inline bool asks_for_gateway6(struct __sk_buff *skb, const struct packet *p)
{
	const struct addr gateway = GATEWAY6;
	struct solicitation question;

	return p->version == 6 && p->key.protocol == IPPROTO_ICMPV6 && p->ttl == FROM_THIS_LINK &&
	       !bpf_skb_load_bytes(skb, p->transport, &question, sizeof(question)) &&
	       question.head.icmp6_type == SOLICITATION && !question.head.icmp6_code &&
	       same_addr(&question.target, &gateway);
}

/* RFC 4861, 7.2.4: to the asker, or to all when the asker has no address yet (RFC 4862, 5.4.3). */
static __always_inline void write_advertisement(struct advertisement *a, const struct packet *p)
{
	const struct addr gateway = GATEWAY6, all_nodes = ALL_NODES;
	struct addr asker = addr_of(p, source_end(p));
	bool unnamed = !asker.half[0] && !asker.half[1];

	if (unnamed)
		asker = all_nodes;
	a->eth.h_proto = bpf_htons(ETH_P_IPV6);
	a->ip.version = 6;
	a->ip.payload_len = bpf_htons(ADVERTISEMENT_ICMP);
	a->ip.nexthdr = IPPROTO_ICMPV6;
	a->ip.hop_limit = FROM_THIS_LINK;
	__builtin_memcpy(&a->ip.saddr, &gateway, sizeof(gateway));
	__builtin_memcpy(&a->ip.daddr, &asker, sizeof(asker));
	a->type = ADVERTISEMENT;
	a->flags = bpf_htonl(ROUTER | OVERRIDE | (unnamed ? 0 : SOLICITED));
	a->target = gateway;
	a->option = TARGET_LINK_ADDRESS;
	a->option_units = 1;
}

static __always_inline void write_macs(struct advertisement *a, const __u8 *asker_mac)
{
	bool unnamed = a->ip.daddr.in6_u.u6_addr8[0] == 0xff;
	const __u8 all_nodes_mac[ETH_ALEN] = {0x33, 0x33, 0, 0, 0, 0x01}; /* RFC 2464, 7 */

	__builtin_memcpy(a->eth.h_dest, unnamed ? all_nodes_mac : asker_mac, ETH_ALEN);
	copy_gateway_mac(a->eth.h_source);
	copy_gateway_mac(a->mac);
}

/* RFC 4443, 2.3: over both addresses, the length, the protocol and the message. */
static __always_inline __u16 checksum6(const struct advertisement *a)
{
	__be32 pseudo[] = {bpf_htonl(ADVERTISEMENT_ICMP), bpf_htonl(IPPROTO_ICMPV6)};
	__s64 sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(NULL, 0, (void *)&a->ip.saddr, 2 * sizeof(struct addr), sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&a->type, ADVERTISEMENT_ICMP, sum);
	return checksum_of(sum);
}

static __noinline int answer_solicitation(struct __sk_buff *skb, const struct packet *p)
{
	struct advertisement answer = {};
	__u8 asker_mac[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, ETH_ALEN, asker_mac, sizeof(asker_mac)))
		return drop(skb, MALFORMED);
	write_advertisement(&answer, p);
	write_macs(&answer, asker_mac);
	answer.check = checksum6(&answer);
	if (bpf_skb_change_tail(skb, sizeof(answer), 0) ||
	    bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0))
		return drop(skb, MALFORMED);
	return send_marked(skb, skb->ifindex, NEIGHBOUR_ANSWERED);
}

/* A packet that may not leave its link. */
static __always_inline int on_link(struct __sk_buff *skb, const struct packet *p)
{
	return asks_for_gateway6(skb, p) ? answer_solicitation(skb, p) : drop(skb, LINK_SCOPE);
}

#endif
