/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A TCP connection that suffers on the path that is its share is moved to another.
 * Probes do not meet all that befalls data: a hop that drops large packets, a link of
 * a bundle, a queue that one class fills. TCP says by itself how it fares.
 *
 *      what was sent before is sent again, and nothing new for a while: nobody hears it
 *      what was heard before is heard again, likewise:                  nobody hears our answers
 *                                           (PRR: Wetherall et al., SIGCOMM 2023)
 *      half of what is heard tells of congestion, again and again       (RFC 3168, ECE;
 *                                            PLB: Qureshi et al., SIGCOMM 2022)
 *
 * Each end moves what it sends. A single loss moves nobody: it is mended before a
 * second timeout, and newer data resets the count. A connection that moved stays; it
 * returns only where all other paths were as bad, or when it was silent for a while and
 * another one took its place in the table. Two that want one place at once: only the
 * first is watched.
 */
#ifndef MESHFABRIC_SUFFER_H
#define MESHFABRIC_SUFFER_H

#include "mss.h"
#include "verdict.h"

enum way_of_data { SENT_WAY = 0, HEARD_WAY = 1 };

enum suffer_policy {
	TICK_OF_TCP_SHIFT = 20, /* ns to the unit of `struct watched`: 1.05 ms */
	REPEATS_TO_MOVE = 2,
	REPEATS_APART = 100, /* else they are one: half of the least retransmission timeout of Linux */
	WINDOW = 100, /* of acknowledgements: some round trips, at least */
	LEAST_HEARD = 4, /* in a window */
	WINDOWS_TO_MOVE = 3, /* in a row (PLB's default) */
	MOVES_APART = 1000, /* what moved needs time to show how it fares */
	FORGOTTEN = 10000, /* a silent connection's place is free */
	LONGEST_WINDOW = 1 << 30, /* RFC 7323, 2.3: what is farther back is of another connection */
};

enum tcp_echo { TCP_ECE = 0x40 };
enum tcp_sequence { TCP_SEQUENCE_AT = 4 };

/* A packet as far as it matters here. */
struct segment {
	__u32 end; /* the sequence number after it */
	__u32 length; /* of data, SYN and FIN */
};

static __always_inline __u32 tcp_now(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_OF_TCP_SHIFT;
}

static __always_inline bool is_segment(const struct packet *p)
{
	return p->key.protocol == IPPROTO_TCP && p->fragment == NO_FRAGMENT && !(p->tcp_flags & TCP_RST);
}

/* `l3` is where the IP packet starts. What cannot be read has no length. */
static __always_inline struct segment read_segment(struct __sk_buff *skb, const struct packet *p, __u32 l3)
{
	__u32 headers = p->transport - l3 + tcp_length(skb, p->transport);
	struct segment segment = {};

	if (headers > p->length ||
	    bpf_skb_load_bytes(skb, p->transport + TCP_SEQUENCE_AT, &segment.end, sizeof(segment.end)))
		return segment;
	segment.length = p->length - headers + !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
	segment.end = bpf_ntohl(segment.end) + segment.length;
	return segment;
}

/* Has this been there before? A SYN with another number begins another connection. */
static __always_inline bool is_repeated(struct watched *watched, __u32 way, __u32 end, bool opens)
{
	__s32 newer = end - watched->end[way];

	if (watched->known & 1 << way && newer <= 0 && newer > -LONGEST_WINDOW && !(opens && newer))
		return true;
	watched->known |= 1 << way;
	watched->end[way] = end;
	watched->repeats[way] = 0;
	return false;
}

static __always_inline bool stalls(struct watched *watched, __u32 way, __u32 now)
{
	if (watched->repeats[way] && now - watched->repeated[way] < REPEATS_APART)
		return false;
	watched->repeated[way] = now;
	return ++watched->repeats[way] >= REPEATS_TO_MOVE;
}

/* A look at its acknowledgements ends when there were some and a while is over; true if several looks in a row
 * told of congestion. */
static __always_inline bool is_congested(struct watched *watched, bool echo, __u32 now)
{
	if (now - watched->window > WINDOW && watched->heard >= LEAST_HEARD) {
		bool bad = 2 * watched->echoes >= watched->heard;
		watched->congested = bad ? watched->congested + 1 : 0;
		watched->window = now;
		watched->heard = 0;
		watched->echoes = 0;
	}
	if (watched->heard < __UINT8_MAX__) {
		watched->heard++;
		watched->echoes += echo;
	}
	return watched->congested >= WINDOWS_TO_MOVE;
}

/* To the next path that is sound and where it has not suffered yet; after all of them, to any again. */
static __noinline void move(struct __sk_buff *skb, struct watched *watched, const struct node *node,
			    __u64 hash, __u32 now)
{
	__u32 node_index = watched->place - FIRST_NODE;
	__u32 present = watched->position ? watched->position - 1 : led_to(node, node_index, hash);

	if (watched->position && now - watched->moved < MOVES_APART)
		return;
	watched->avoided |= 1 << (present % MAX_PATHS);
	watched->congested = 0;
	for (__u32 i = 0; i < MAX_PATHS; i++) {
		__u32 position = (i + (hash >> 48)) % MAX_PATHS;
		if (!((node->shared & ~watched->avoided) >> position & 1) ||
		    !sound_at(node, node_index, position))
			continue;
		watched->position = position + 1;
		watched->moved = now;
		watched->repeats[SENT_WAY] = 0;
		watched->repeats[HEARD_WAY] = 0;
		return count(skb, FLOW_MOVED);
	}
	watched->avoided = 0;
}

/* A place in the table is for one connection, until that was silent for a while. */
static __always_inline bool take_place(struct watched *watched, __u64 hash, __u32 place, __u32 now)
{
	if (watched->check == watched_check(hash) && watched->place == place)
		return true;
	if (watched->place && now - watched->seen < FORGOTTEN)
		return false;
	*watched = (struct watched){.check = watched_check(hash), .place = place, .window = now};
	return true;
}

static __always_inline bool suffers(struct __sk_buff *skb, const struct packet *p, struct watched *watched,
				    __u32 way, __u32 now)
{
	bool opens = p->tcp_flags & TCP_SYN;
	struct segment segment = read_segment(skb, p, way == SENT_WAY ? ETH_HLEN : 0);

	if (segment.length && is_repeated(watched, way, segment.end, opens) && stalls(watched, way, now))
		return true;
	return way == HEARD_WAY && !opens && is_congested(watched, p->tcp_flags & TCP_ECE, now);
}

/* On its way to the node at that place, whose paths are shared; or out of a tunnel, whosever it is (0). */
static __noinline void watch(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	__u64 hash = hash_key((const __u64 *)&p->key);
	struct watched *watched = watched_at(hash);
	__u32 now = tcp_now();

	if (!watched || !is_segment(p))
		return;
	if (place ? !take_place(watched, hash, place, now)
		  : !watched->place || watched->check != watched_check(hash))
		return;
	watched->seen = now;
	__u32 node_index = watched->place - FIRST_NODE;
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);
	if (suffers(skb, p, watched, place ? SENT_WAY : HEARD_WAY, now) && node)
		move(skb, watched, node, hash, now);
}

#endif
