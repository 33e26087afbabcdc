/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Parsing what is not plain TCP or UDP: IPv4 options, IPv6 extension headers,
 * fragments, ICMP, other protocols, packets with a short linear part. Bytes are
 * copied out one header at a time, so nothing here depends on where they lie.
 */
#ifndef MESHFABRIC_PARSE_ODD_H
#define MESHFABRIC_PARSE_ODD_H

#include <linux/icmpv6.h>
#include "parse.h"
#include "maps.h"

enum ip_limits {
	MAX_EXTENSIONS = 6, /* IPv6 headers before the transport header */
	EXTENSION_UNIT = 8,
	QUOTED_TRANSPORT = 8, /* what an ICMP error holds of it at least (RFC 792) */
	TCP_OVERLAP = 1, /* a fragment offset that would rewrite TCP flags (RFC 3128) */
	HEADERS_WRITTEN = ETH_HLEN + sizeof(struct ipv6hdr),
};

enum ipv4_fragment { MORE_FRAGMENTS = 0x2000, OFFSET_MASK = 0x1fff };
enum ipv6_fragment { OFFSET_SHIFT_6 = 3, MORE_FRAGMENTS_6 = 1 };

/* linux/icmp.h wants the C library's socket headers, which are not for this machine. */
enum icmp4_type {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
};

struct icmp_head {
	__u8 type;
	__u8 code;
	__u16 check;
	__be16 identifier; /* of an echo */
	__be16 sequence;
};

/* The head that hop-by-hop, routing, destination and fragment headers share. */
struct extension {
	__u8 next;
	__u8 length; /* in units beyond the first; reserved in a fragment header */
	union {
		__be16 fragment_offset;
		struct {
			__u8 routing_type;
			__u8 segments_left;
		};
	};
	__be32 fragment_id;
};

struct cursor {
	struct addr source;
	struct addr destination;
	__u32 at; /* the next header */
	__u32 end; /* of the IP packet */
	__u16 fragment_offset; /* in units of 8 bytes */
	__u8 protocol; /* of the next header */
	bool quoted; /* inside an ICMP error: may be cut short */
};

static __always_inline int load_header(struct __sk_buff *skb, const struct cursor *c, void *to, __u32 size)
{
	if (c->at + size > c->end || bpf_skb_load_bytes(skb, c->at, to, size))
		return MALFORMED;
	return 0;
}

static __always_inline void note_fragment(struct cursor *c, struct packet *p, __u32 offset, bool more,
					  __be32 id)
{
	c->fragment_offset = offset;
	p->fragment_id = id;
	p->fragment = offset ? LATER_FRAGMENT : more ? FIRST_FRAGMENT : NO_FRAGMENT;
}

/* Take the length that the header claims as the packet's, unless there is less. */
static __always_inline int set_end(struct __sk_buff *skb, struct cursor *c, struct packet *p, __u32 length)
{
	__u32 room = skb->len - c->at;

	p->length = length;
	c->end = c->at + length;
	if (length <= room)
		return 0;
	c->end = skb->len;
	return c->quoted ? 0 : MALFORMED;
}

static __noinline int walk4(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, c->at, &ip, sizeof(ip)))
		return MALFORMED;
	__u32 header = ip.ihl * 4;
	__u32 length = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || length < header || set_end(skb, c, p, length))
		return MALFORMED;
	c->source.half[1] = mapped_half(ip.saddr);
	c->destination.half[1] = mapped_half(ip.daddr);
	c->protocol = ip.protocol;
	c->at += header;
	__u16 fragment = bpf_ntohs(ip.frag_off);
	note_fragment(c, p, fragment & OFFSET_MASK, fragment & MORE_FRAGMENTS, (__be32)ip.id);
	p->version = 4;
	p->ttl = ip.ttl;
	return c->at > c->end ? MALFORMED : 0;
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_FRAGMENT;
}

/* A routing header that still wants to steer the packet would walk it past the policy (RFC 5095). */
static __always_inline bool steers(const struct cursor *c, const struct extension *head)
{
	return c->protocol == IPPROTO_ROUTING && (head->segments_left || !head->routing_type);
}

static __noinline int walk_extension(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	struct extension head;

	if (load_header(skb, c, &head, sizeof(head)))
		return MALFORMED;
	if (steers(c, &head))
		return UNSUPPORTED;
	c->at += EXTENSION_UNIT;
	if (c->protocol == IPPROTO_FRAGMENT) {
		__u16 fragment = bpf_ntohs(head.fragment_offset);
		note_fragment(c, p, fragment >> OFFSET_SHIFT_6, fragment & MORE_FRAGMENTS_6,
			      head.fragment_id);
	} else {
		c->at += head.length * EXTENSION_UNIT;
	}
	c->protocol = head.next;
	return c->at > c->end ? MALFORMED : 0;
}

static __always_inline int walk_extensions(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(c->protocol) || p->fragment == LATER_FRAGMENT)
			return 0;
		int reason = walk_extension(skb, c, p);
		if (reason)
			return reason;
	}
	return is_extension(c->protocol) ? UNSUPPORTED : 0;
}

static __noinline int walk6(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, c->at, &ip, sizeof(ip)) || ip.version != 6 ||
	    set_end(skb, c, p, sizeof(ip) + bpf_ntohs(ip.payload_len)))
		return MALFORMED;
	__builtin_memcpy(&c->source, &ip.saddr, sizeof(c->source));
	__builtin_memcpy(&c->destination, &ip.daddr, sizeof(c->destination));
	if (is_v4(&c->source) ||
	    is_v4(&c->destination)) /* would pass for IPv4; RFC 4942, 2.2: never on a wire */
		return MALFORMED;
	c->protocol = ip.nexthdr;
	c->at += sizeof(ip);
	p->version = 6;
	p->ttl = ip.hop_limit;
	return walk_extensions(skb, c, p);
}

static __always_inline void fragment_key_of(const struct cursor *c, const struct packet *p,
					    struct fragment_key *key)
{
	key->source = c->source;
	key->destination = c->destination;
	key->id = p->fragment_id;
	key->protocol = p->version == 4 ? c->protocol : 0;
}

static __always_inline int recall_ports(struct cursor *c, struct packet *p, __u32 *ports)
{
	struct fragment_key key = {};

	fragment_key_of(c, p, &key);
	struct fragment *first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (first->protocol == IPPROTO_TCP && c->fragment_offset == TCP_OVERLAP))
		return FRAGMENT;
	c->protocol = first->protocol;
	p->role = first->role;
	*ports = port_pair(first->port[0], first->port[1]);
	return 0;
}

static __always_inline bool is_error4(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

static __always_inline bool is_error6(__u8 type)
{
	return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
}

/* The asking end has the identifier for a port, the answering end the request's type: so two hosts
 * that ask each other with one identifier have two flows, and a question never passes for an answer. */
static __always_inline __u32 echo_ports(struct packet *p, __u8 request, bool reply, __be16 identifier)
{
	p->role = reply ? ANSWERS : OPENS;
	return reply ? port_pair(bpf_htons(request), identifier) : port_pair(identifier, bpf_htons(request));
}

static __always_inline __u32 icmp_ports(struct packet *p, __u8 type, __be16 identifier)
{
	bool v4 = p->version == 4;
	__u8 request = v4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
	__u8 reply = v4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;

	if (type == request || type == reply)
		return echo_ports(p, request, type == reply, identifier);
	p->role = (v4 ? is_error4(type) : is_error6(type)) ? REPORTS : STANDS_ALONE;
	return port_pair(bpf_htons(type), bpf_htons(type));
}

/* Ports from the first 8 bytes of the transport header, where the protocol has any. */
static __noinline int parse_transport(struct __sk_buff *skb, struct cursor *c, struct packet *p, __u32 *ports)
{
	struct icmp_head head;
	bool icmp = c->protocol == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);

	switch (c->protocol) {
	case IPPROTO_TCP:
		if (!c->quoted && (c->at + sizeof(struct tcphdr) > c->end ||
				   bpf_skb_load_bytes(skb, c->at + TCP_FLAGS_AT, &p->tcp_flags, 1)))
			return MALFORMED;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (icmp)
			break;
		return UNSUPPORTED;
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
	case IPPROTO_NONE:
		return UNSUPPORTED;
	default:
		return 0; /* a flow of its protocol, without ports */
	}
	if (load_header(skb, c, &head, sizeof(head)))
		return MALFORMED;
	*ports = icmp ? icmp_ports(p, head.type, head.identifier) : *(__u32 *)&head;
	return 0;
}

/* Parses at `l3` where `version` is expected (0: whatever the first bits say). Not static, so that the verifier
 * walks through it once, and not in every state that its callers are in; for Linux 6.1 they have to have zeroed
 * what they hand over. */
__noinline int parse_at(struct __sk_buff *skb, __u32 l3, __u32 version, bool quoted, struct packet *p)
{
	struct cursor c = {.at = l3, .quoted = quoted};
	__u32 ports = 0;
	__u8 first;
	int reason;

	if (!p || bpf_skb_load_bytes(skb, l3, &first, sizeof(first)))
		return MALFORMED;
	if (!version)
		version = first >> 4;
	if (version != 4 && version != 6)
		return NOT_IP;
	reason = version == 4 ? walk4(skb, &c, p) : walk6(skb, &c, p);
	if (reason)
		return reason;
	p->transport = c.at;
	reason = p->fragment == LATER_FRAGMENT ? recall_ports(&c, p, &ports)
					       : parse_transport(skb, &c, p, &ports);
	if (reason)
		return reason;
	set_key6(p, &c.source, &c.destination, ports, c.protocol);
	return 0;
}

/* The same, and the headers that may be rewritten are made readable in place. */
static __always_inline int parse_odd(struct __sk_buff *skb, __u32 l3, __u32 version, struct packet *p)
{
	bpf_skb_pull_data(skb, skb->len < HEADERS_WRITTEN ? skb->len : HEADERS_WRITTEN);
	__builtin_memset(p, 0, sizeof(*p));
	return parse_at(skb, l3, version, false, p);
}

#endif
