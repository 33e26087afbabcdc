// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from a WireGuard device, which takes a packet only from the node that its
 * source address belongs to (AllowedIPs).
 */
#include "tunnel.h"

static __always_inline bool is_proved(struct __sk_buff *skb, __u32 place)
{
	return true;
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	return leaves_tunnel(skb);
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	__u32 place;

	return enters_tunnel(skb, &place);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
