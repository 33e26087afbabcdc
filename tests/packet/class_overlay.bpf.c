// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * from_overlay and to_overlay, with the hash that they leave behind put where a test run shows it.
 */
#include "../../bpf/overlay.bpf.c"

enum { TOLD_AT = 4 }; /* in cb */

SEC("tc")
int reflects_class(struct __sk_buff *skb)
{
	int verdict = leaves_tunnel(skb);

	skb->cb[TOLD_AT] = skb->hash;
	return verdict;
}

SEC("tc")
int asks_class(struct __sk_buff *skb)
{
	__u32 place;
	int verdict = enters_tunnel(skb, &place);

	skb->cb[TOLD_AT] = skb->hash;
	return verdict;
}
