/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Whose address is it, and at which generation of that place did we ask?
 */
#ifndef MESHFABRIC_ADDRESS_H
#define MESHFABRIC_ADDRESS_H

#include "maps.h"
#include "parse.h"

enum address_bits { ADDRESS_BITS = 128 };

/* One end of a packet, with the generation that was read before its identity was. */
struct end {
	__u32 identity;
	__u32 place;
	__u32 generation;
};

/* Indices into the key of a packet's two ends. */
static __always_inline __u32 source_end(const struct packet *p)
{
	return p->swapped;
}

static __always_inline __u32 destination_end(const struct packet *p)
{
	return !p->swapped;
}

static __always_inline struct addr addr_of(const struct packet *p, __u32 which)
{
	return which ? p->key.addr[1] : p->key.addr[0];
}

static __always_inline __be16 port_of(const struct packet *p, __u32 which)
{
	return which ? p->key.port[1] : p->key.port[0];
}

static __always_inline struct address_value *owner_of(const struct packet *p, __u32 which)
{
	struct address_key key = {.prefixlen = ADDRESS_BITS, .addr = addr_of(p, which)};

	return bpf_map_lookup_elem(&addresses, &key);
}

static __always_inline __u32 place_of(const struct packet *p, __u32 which)
{
	struct address_value *owner = owner_of(p, which);

	return owner ? owner->place : 0;
}

/* Writers change the address first and bump the generation last, so it must be read first. Which
 * generation that is only the address tells: so `expected` is a first guess, and if it proves wrong
 * the generation is set to one that is certain to be stale, and the next packet asks again. */
static __noinline bool find_end(const struct packet *p, __u32 which, __u32 expected, struct end *end)
{
	__u32 *generation = bpf_map_lookup_elem(&generations, &expected);

	if (!generation)
		return false;
	end->generation = __sync_fetch_and_add(generation, 0); /* a full barrier */
	struct address_value *owner = owner_of(p, which);
	if (!owner)
		return false;
	end->identity = owner->identity;
	end->place = owner->place;
	if (end->place != expected)
		end->generation--;
	return true;
}

/* Another node's? */
static __always_inline bool is_node(__u32 place)
{
	return place - FIRST_NODE < MAX_NODES;
}

static __always_inline bool lies_in(const struct addr *a, const struct prefix *prefix)
{
	return (a->half[1] & prefix->mask.half[1]) == prefix->net.half[1] &&
	       (a->half[0] & prefix->mask.half[0]) == prefix->net.half[0];
}

static __always_inline bool is_link_scope4(__be32 address)
{
	__u32 a = bpf_ntohl(address);

	return a >> 28 == 0xe || a >> 16 == 0xa9fe || a == 0xffffffff; /* 224.0.0.0/4, 169.254.0.0/16 */
}

static __always_inline bool is_link_scope6(const struct addr *a)
{
	return a->byte[0] == 0xff || (a->byte[0] == 0xfe && a->byte[1] >> 6 == 2); /* ff00::/8, fe80::/10 */
}

static __always_inline bool is_no_source4(__be32 address)
{
	__u32 a = bpf_ntohl(address);

	return a >> 24 == 0 || a >> 24 == 127 || a >> 28 == 0xf; /* 0.0.0.0/8, 127.0.0.0/8, 240.0.0.0/4 */
}

/* From where nobody can be answered (RFC 1812, 5.3.7; RFC 4291, 2.5.2 and 2.5.3). */
static __always_inline bool is_martian(const struct packet *p)
{
	struct addr source = addr_of(p, source_end(p));

	if (is_v4(&source))
		return is_link_scope4(source.word[3]) || is_no_source4(source.word[3]);
	return is_link_scope6(&source) || (!source.half[0] && !source.word[2]); /* ::/96: none, loopback */
}

/* For this link or for nobody: multicast (RFC 5771; RFC 4291, 2.7), link-local (RFC 3927; RFC 4291,
 * 2.5.6), broadcast. */
static __always_inline bool leaves_no_link(const struct packet *p)
{
	struct addr destination = addr_of(p, destination_end(p));

	return is_v4(&destination) ? is_link_scope4(destination.word[3]) : is_link_scope6(&destination);
}

#endif
