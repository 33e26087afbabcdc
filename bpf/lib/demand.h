/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Who wants probes? A node that there is traffic for. A packet notes that once an
 * interval, and where nobody paces the probes any more it begins the token that
 * does (token.h) with a copy of itself.
 */
#ifndef MESHFABRIC_DEMAND_H
#define MESHFABRIC_DEMAND_H

#include "path.h"

enum demand_policy {
	TICKS_TO_MISS = 3, /* in a row: the token is lost */
	ONLY = 0, /* key of a map with one entry */
};

static __always_inline struct token *the_token(void)
{
	__u32 only = ONLY;

	return bpf_map_lookup_elem(&token, &only);
}

static __always_inline struct loop *the_loop(void)
{
	__u32 only = ONLY;

	return bpf_map_lookup_elem(&loop, &only);
}

/* Signed: the coarse clock is behind the one that ticks are noted by. */
static __always_inline bool is_long_ago(__u64 then_ns, __u64 now_ns)
{
	return (__s64)(now_ns - then_ns) > (__s64)(TICKS_TO_MISS * probe_interval_ns);
}

static __always_inline void mark_active(__u32 node_index)
{
	__u32 word = node_index / NODES_PER_WORD;
	__u64 *bits = bpf_map_lookup_elem(&active, &word);

	if (bits)
		__sync_fetch_and_or(bits, 1ULL << node_index % NODES_PER_WORD);
}

/* One of all CPUs begins it, and if that comes to nothing another one three intervals later. */
static __always_inline void begin_token(struct __sk_buff *skb, __u64 now_ns)
{
	struct token *t = the_token();
	struct loop *l = the_loop();

	if (!t || !l || !l->in_ifindex || !is_long_ago(t->ticked_ns, now_ns))
		return;
	__u64 before_ns = *(volatile __u64 *)&t->started_ns;
	if (!is_long_ago(before_ns, now_ns) ||
	    __sync_val_compare_and_swap(&t->started_ns, before_ns, now_ns) != before_ns)
		return;
	skb->mark = fabric_mark;
	bpf_clone_redirect(skb, l->in_ifindex, BPF_F_INGRESS);
}

static __noinline void ask_for_probes(struct __sk_buff *skb, __u32 node_index, __u64 now_ns)
{
	mark_active(node_index);
	begin_token(skb, now_ns);
}

/* A packet with a link header is for this node. */
static __always_inline void note_traffic(struct __sk_buff *skb, __u32 node_index)
{
	struct path *preferred = path_at(node_index, 0);
	__u64 now_ns = bpf_ktime_get_coarse_ns();

	if (!preferred || now_ns - preferred->traffic_ns < probe_interval_ns)
		return;
	preferred->traffic_ns = now_ns;
	ask_for_probes(skb, node_index, now_ns);
}

#endif
