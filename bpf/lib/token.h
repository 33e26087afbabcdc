/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Probes that keep themselves going. A program cannot wait, but a queue can: a
 * token goes round a pair of devices, behind a queue that holds it back for one
 * interval, and each time it passes here it is the carrier that the probes are
 * copied from.
 *
 *      a packet with nobody to pace probes --begin--+
 *                                                   v
 *      +--> in_ifindex --tick--> a probe by each path that is due --> tunnels' devices
 *      |                  |
 *      +--- queue <--- out_ifindex
 *
 *      lost      nothing for three intervals: the next packet begins another
 *      stray     of another generation: dropped, so that there is only ever one
 *      early     the queue let it pass at once: a few times, then it is dropped
 *      over      no traffic for a while and no idle node's turn: it ends
 *
 * Nodes with traffic are probed at each tick, the others once in a long while;
 * both so many at a time that one tick stays short (and then less often each).
 */
#ifndef MESHFABRIC_TOKEN_H
#define MESHFABRIC_TOKEN_H

#include "carrier.h"
#include "class.h"
#include "demand.h"
#include "turn.h"
#include "verdict.h"

enum token_policy {
	ACTIVE_PER_S = 6400, /* probes: what a tick may send of them, in its share of a second */
	IDLE_PER_S = 2000,
	NODES_TO_LOOK_AT = 1024, /* in one tick, for idle ones */
	EARLY_PASSES = 3,
};

#define ACTIVE_FOR_NS (10 * NTP_NS_PER_S) /* after the last packet */

enum loop_step { GO_ON = 0, ENOUGH = 1 };

/* One tick's work. What it counts is in the token, whose numbers the verifier does not follow step by step. */
struct round {
	struct __sk_buff *skb;
	struct token *token;
	__u64 now_ns;
};

static __always_inline __s32 share_of_a_tick(__u64 per_s)
{
	__u64 share = per_s * probe_interval_ns / NTP_NS_PER_S;

	return share ? share : 1;
}

/* As what our own programs send, past to_overlay; a device that is gone leaves the probe without an answer. */
static __noinline void probe_path(struct round *r, const struct probe_ends *ends, __u32 at, __u32 ifindex)
{
	struct path *path = bpf_map_lookup_elem(&paths, &at);

	if (!path)
		return;
	look_for_silence(path, FIRST_NODE + at / MAX_PATHS, ifindex, r->now_ns);
	if (!write_probe(r->skb, ends, path, ifindex))
		return;
	r->skb->mark = fabric_mark;
	r->skb->cb[JUDGED_LENGTH] = r->skb->len - ETH_HLEN;
	r->skb->cb[FOR_PLACE] = FIRST_NODE + at / MAX_PATHS;
	tell_class(r->skb, CONTROL_CLASS, 0);
	bpf_clone_redirect(r->skb, ifindex, 0);
	r->token->probes++;
	r->token->left--;
}

static __noinline void probe_node(struct round *r, __u32 node_index)
{
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);
	struct probe_ends *ends = bpf_map_lookup_elem(&probes, &node_index);

	if (!node || !ends || !(ends->destination.half[0] | ends->destination.half[1]))
		return;
	for (__u32 i = 0; i < MAX_PATHS; i++) {
		if (node->ifindex[i])
			probe_path(r, ends, node_index * MAX_PATHS + i, node->ifindex[i]);
	}
}

/* Of a number that is not 0. (The instruction set has no such instruction.) */
static __always_inline __u32 lowest_bit(__u64 bits)
{
	__u32 at = 0;

#pragma unroll
	for (__u32 half = NODES_PER_WORD / 2; half; half /= 2) {
		__u64 low = bits & ((1ULL << half) - 1);
		at += low ? 0 : half;
		bits = low ? low : bits >> half;
	}
	return at;
}

/* Was there traffic for it? Who had none for a while is forgotten; a packet that comes meanwhile is noted
 * again an interval later. */
static __always_inline bool is_still_active(struct round *r, __u64 *bits, __u32 node_index)
{
	struct path *preferred = path_at(node_index, 0);

	if (preferred && (__s64)(r->now_ns - preferred->traffic_ns) < (__s64)ACTIVE_FOR_NS)
		return true;
	__sync_fetch_and_and(bits, ~(1ULL << node_index % NODES_PER_WORD));
	return false;
}

/* The next node with traffic, or the rest of a word without any. */
static long active_step(__u32 step, struct round *r)
{
	struct token *t = r->token;
	__u32 at = t->next_active, word = at / NODES_PER_WORD % ACTIVE_WORDS;
	__u64 *bits = bpf_map_lookup_elem(&active, &word);
	__u64 rest = bits ? *bits >> at % NODES_PER_WORD : 0;

	at = rest ? at + lowest_bit(rest) : (at / NODES_PER_WORD + 1) * NODES_PER_WORD;
	t->next_active = at;
	if (!bits || at >= t->last_active || t->left <= 0)
		return ENOUGH;
	if (!rest)
		return GO_ON;
	t->next_active++;
	if (is_still_active(r, bits, at % ACTIVE_BITS)) {
		t->found_active++;
		probe_node(r, at % ACTIVE_BITS);
	}
	return GO_ON;
}

static __always_inline bool is_marked_active(__u32 node_index)
{
	__u32 word = node_index / NODES_PER_WORD;
	__u64 *bits = bpf_map_lookup_elem(&active, &word);

	return bits && *bits >> node_index % NODES_PER_WORD & 1;
}

static long idle_step(__u32 step, struct round *r)
{
	__u32 node_index = r->token->next_idle;

	if (node_index >= MAX_NODES || r->token->left <= 0)
		return ENOUGH;
	r->token->next_idle++;
	if (!is_marked_active(node_index))
		probe_node(r, node_index);
	return GO_ON;
}

static __always_inline void probe_active_nodes(struct round *r)
{
	struct token *t = r->token;

	t->next_active %= ACTIVE_BITS;
	t->last_active = t->next_active + ACTIVE_BITS;
	t->found_active = 0;
	t->left = share_of_a_tick(ACTIVE_PER_S);
	bpf_loop(2 * ACTIVE_BITS, active_step, r, 0);
}

static __always_inline void probe_idle_nodes(struct round *r)
{
	struct token *t = r->token;

	if (t->next_idle >= MAX_NODES && r->now_ns - t->swept_ns >= probe_idle_ns) {
		t->swept_ns = r->now_ns;
		t->next_idle = 0;
	}
	t->left = share_of_a_tick(IDLE_PER_S);
	bpf_loop(NODES_TO_LOOK_AT, idle_step, r, 0);
}

/* Out to the queue. One that sends by time stamps (fq) lets it go at `due_ns`, others after an interval. */
static __always_inline int go_round(struct __sk_buff *skb, struct token *t, struct loop *l, __u64 due_ns)
{
	struct blank blank = {.eth.h_proto = bpf_htons(ETH_P_IP)};

	if (bpf_skb_store_bytes(skb, 0, &blank, sizeof(blank), BPF_F_INVALIDATE_HASH))
		return TC_ACT_SHOT;
	skb->mark = t->generation;
	bpf_skb_set_tstamp(skb, due_ns, BPF_SKB_TSTAMP_DELIVERY_MONO);
	return bpf_redirect(l->out_ifindex, 0);
}

/* Whatever the packet was, nothing of it but its buffer is kept. Its first time round is for the device to
 * settle a checksum that was left to it. The mark of a token is never that of a packet of ours. */
static __noinline int begin(struct __sk_buff *skb, struct token *t, struct loop *l, __u64 now_ns)
{
	if (!is_long_ago(t->ticked_ns, now_ns) || bpf_skb_change_tail(skb, sizeof(struct blank), 0))
		return TC_ACT_SHOT;
	t->generation = bpf_get_prandom_u32();
	t->generation += !t->generation || t->generation == fabric_mark;
	t->early = 0;
	t->starts++;
	t->ticked_ns = now_ns - probe_interval_ns; /* a queue that held nothing lets it pass at once */
	return go_round(skb, t, l, now_ns);
}

static __always_inline int stray(struct token *t)
{
	t->strays++;
	return TC_ACT_SHOT;
}

static __noinline int send_probes(struct __sk_buff *skb, struct token *t, struct loop *l, __u64 now_ns)
{
	struct round r = {.skb = skb, .token = t, .now_ns = now_ns};

	t->ticked_ns = now_ns;
	t->early = 0;
	t->ticks++;
	probe_active_nodes(&r);
	probe_idle_nodes(&r);
	if (!t->found_active && t->next_idle >= MAX_NODES) {
		t->ticked_ns = 0; /* the next packet need not wait to begin another */
		return TC_ACT_SHOT;
	}
	return become(skb, ETH_P_IP) ? go_round(skb, t, l, now_ns + probe_interval_ns) : stray(t);
}

static __always_inline int come_round(struct __sk_buff *skb, struct token *t, struct loop *l, __u64 now_ns)
{
	if (skb->mark != t->generation || skb->len != sizeof(struct blank))
		return stray(t);
	if ((__s64)(now_ns - t->ticked_ns) >= (__s64)(probe_interval_ns / 2))
		return send_probes(skb, t, l, now_ns);
	if (t->early++ >= EARLY_PASSES)
		return stray(t);
	return go_round(skb, t, l, t->ticked_ns + probe_interval_ns);
}

#endif
