/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The short way for flows that are busy. In a table of many flows a packet's
 * time goes to cache and TLB misses: a hash map's bucket, its element's header,
 * key and value. Here all is in one line, found by a hash of our own.
 *
 * A copy is good for one tick of the clock, so that each flow itself is looked
 * at every few seconds: there its time is noted, and there it may have ended.
 * Generations are compared for every packet, as they are in the flow. Two CPUs
 * may write one slot at once; as in the lockless tables of chess programs (Hyatt
 * and Mann, ICGA Journal 25, 2002) the words of a torn slot do not fit its check.
 */
#ifndef MESHFABRIC_RECENT_H
#define MESHFABRIC_RECENT_H

#include "conntrack.h"
#include "hash.h"

enum tick { TICK_SHIFT = 32 }; /* of the coarse clock: 4.3 s, little beside any lifetime */

/* A slot as eight words; struct recent names them. Each is read once, for another CPU may be writing. */
enum recent_word { GENERATIONS_WORD = 5, PLACES_WORD = 6, CHECK_WORD = 7 };
typedef volatile __u64 slot_word;

static __always_inline __u64 check_of(__u64 hash, __u64 generations_word, __u64 places_word)
{
	return (hash ^ generations_word) * SPREAD_1 ^ places_word;
}

static __always_inline __u16 current_tick(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* A flow has a home slot, and a second choice beside it, which processors like to fetch along with it. */
static __always_inline slot_word *slot_at(__u64 hash, __u32 beside)
{
	__u32 at = (hash & (RECENT_FLOWS - 1)) ^ beside;

	return bpf_map_lookup_elem(&recent, &at);
}

static __always_inline bool has_key(slot_word *slot, const __u64 *key)
{
	return !((slot[0] ^ key[0]) | (slot[1] ^ key[1]) | (slot[2] ^ key[2]) | (slot[3] ^ key[3]) |
		 (slot[4] ^ key[4]));
}

static __always_inline bool is_generation(__u32 place, __u32 expected)
{
	__u32 *generation = bpf_map_lookup_elem(&generations, &place);

	return generation && *generation == expected;
}

/* What the slot says beside its key; false if it is torn, old or judged by what no longer holds. */
static __always_inline bool read_slot(slot_word *slot, __u64 hash, struct recent *copy)
{
	__u64 words[] = {slot[GENERATIONS_WORD], slot[PLACES_WORD]};

	__builtin_memcpy(copy->generation, words, sizeof(words));
	return slot[CHECK_WORD] == check_of(hash, words[0], words[1]) && copy->tick == current_tick() &&
	       is_generation(copy->place[0], copy->generation[0]) &&
	       is_generation(copy->place[1], copy->generation[1]);
}

/* True when the packet's flow was busy in this tick. What opens or ends a connection takes the long way. */
static __always_inline bool recall(const struct packet *p, struct trip *trip)
{
	const __u64 *key = (const __u64 *)&p->key;
	__u64 hash = hash_key(key);
	slot_word *slot = slot_at(hash, 0);
	struct recent copy;

	if (p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST))
		return false;
	if (slot && !has_key(slot, key)) {
		slot = slot_at(hash, 1);
		if (slot && !has_key(slot, key))
			return false;
	}
	if (!slot || !read_slot(slot, hash, &copy))
		return false;
	bool turned = copy.swapped != p->swapped;
	trip->from = turned ? copy.place[1] : copy.place[0];
	trip->to = turned ? copy.place[0] : copy.place[1];
	trip->noted = note_of(copy.service_class, turned);
	return true;
}

/* The flow is over: its ports may be taken again within the tick, and then each step has to be seen. */
static __noinline void forget_recent(const struct packet *p)
{
	const __u64 *key = (const __u64 *)&p->key;
	__u64 hash = hash_key(key);
	slot_word *home = slot_at(hash, 0), *second = slot_at(hash, 1);

	if (home && has_key(home, key))
		home[CHECK_WORD] = 0;
	if (second && has_key(second, key))
		second[CHECK_WORD] = 0;
}

static __always_inline bool is_free(slot_word *slot, const __u64 *key, __u16 tick)
{
	return ((const volatile struct recent *)slot)->tick != tick || has_key(slot, key);
}

/* Home, unless another busy flow is there and none is beside. */
static __always_inline slot_word *slot_for(__u64 hash, const __u64 *key, __u16 tick)
{
	slot_word *home = slot_at(hash, 0), *second = slot_at(hash, 1);

	if (!home || !second || is_free(home, key, tick))
		return home;
	return is_free(second, key, tick) ? second : home;
}

static __always_inline void keep_recent(const struct packet *p, const struct flow *flow)
{
	const __u64 *key = (const __u64 *)&p->key;
	__u64 hash = hash_key(key), words[2];
	struct recent copy = {
		.key = p->key,
		.generation = {flow->generation[0], flow->generation[1]},
		.place = {flow->place[0], flow->place[1]},
		.tick = current_tick(),
		.swapped = flow->swapped,
		.service_class = flow->service_class,
	};
	slot_word *slot = slot_for(hash, key, copy.tick);

	if (!slot)
		return;
	__builtin_memcpy(words, copy.generation, sizeof(words));
	copy.check = check_of(hash, words[0], words[1]);
	*(struct recent *)slot = copy;
}

#endif
