// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * A flood for flood.py: gives the program under test the packet of another flow at
 * every run. A flow's number is in two bytes of an address and in a port (an
 * echo's identifier); the hop that the last run took is given back.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum numbers { HOPS = 64, FIRST_PORT = 1024, ADDRESS_BITS = 16 };

const volatile __u32 hops_at = 0; /* where in the frame the TTL is, or the hop limit */
const volatile __u32 address_at = 0; /* the address's last two bytes */
const volatile __u32 port_at = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

__u32 next;

SEC("tc")
int flood(struct __sk_buff *skb)
{
	__u32 number = next++;
	__be16 address = bpf_htons(number), port = bpf_htons(FIRST_PORT + (number >> ADDRESS_BITS));
	__u8 hops = HOPS;

	if (bpf_skb_store_bytes(skb, hops_at, &hops, sizeof(hops), 0) ||
	    bpf_skb_store_bytes(skb, address_at, &address, sizeof(address), 0) ||
	    bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0))
		return TC_ACT_SHOT;
	bpf_tail_call(skb, &under_test, 0);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
