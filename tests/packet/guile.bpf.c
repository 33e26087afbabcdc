// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a pod may do to its own packets before they leave its interface.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { FRONT = 42, VLAN = 5 };

const volatile __u8 front[FRONT];

/* Another Ethernet, IP and UDP header before what the kernel goes on taking for the network header. */
SEC("tc")
int shift(struct __sk_buff *skb)
{
	__u8 bytes[FRONT];

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	for (int i = 0; i < FRONT; i++)
		bytes[i] = front[i];
	if (bpf_skb_change_head(skb, FRONT, 0) || bpf_skb_store_bytes(skb, 0, bytes, FRONT, 0))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* A tag beside the packet, as a device with offload for it takes one; nothing in the frame shows it. */
SEC("tc")
int tag(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), VLAN) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
