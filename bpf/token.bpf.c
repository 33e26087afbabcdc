// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Where the token comes round, or somebody begins one: the clock of the probes.
 */
#include "token.h"

SEC("tc")
int tick(struct __sk_buff *skb)
{
	struct token *t = the_token();
	struct loop *l = the_loop();
	__u64 now_ns = bpf_ktime_get_ns();

	if (!t || !l || l->in_ifindex != skb->ifindex || !skb->mark)
		return drop(skb, NOT_FROM_FABRIC);
	return skb->mark == fabric_mark ? begin(skb, t, l, now_ns) : come_round(skb, t, l, now_ns);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
