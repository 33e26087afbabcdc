// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * A turntable for measure.py: restores the packet that the last run changed,
 * turns it to another flow and calls the program under test. With `nothing`
 * there instead, what the turntable itself costs is known.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum layout { LINK_HEADER = 14, TTL = 64, FIRST_PORT = 1024, HEAD = 28 };
enum generator { MULTIPLIER = 25173, INCREMENT = 13849 };

const volatile __u32 flows_mask = 0; /* number of flows - 1: a power of two less one */
const volatile __u32 l3 = LINK_HEADER;
const volatile __u32 ttl_at = 8; /* in the IP header; IPv6: 7 */
const volatile __u32 ports_at = 20; /* behind it; IPv6: 40 */
const volatile __u32 length = 64; /* of the packet as it was given */
const volatile __u8 head[HEAD] = {}; /* IPv4 and UDP header of the packet */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

__u32 step;

/* A generator of full period modulo a power of two (Knuth, The Art of Computer Programming 2, 3.2.1.2):
 * every flow once before any comes again, in an order that no cache guesses. */
static __always_inline __u32 next_flow(void)
{
	step = (step * MULTIPLIER + INCREMENT) & flows_mask;
	return step;
}

SEC("tc")
int turn(struct __sk_buff *skb)
{
	__u32 flow = next_flow();
	__be16 ports[] = {bpf_htons(FIRST_PORT + (flow & 0x7fff)), bpf_htons(FIRST_PORT + (flow >> 15))};
	__u8 start[HEAD];

	if (skb->len > length)
		bpf_skb_adjust_room(skb, -LINK_HEADER, BPF_ADJ_ROOM_MAC, 0);
	if (!l3) {
		for (int i = 0; i < HEAD; i++)
			start[i] = head[i];
		bpf_skb_store_bytes(skb, 0, start, sizeof(start), 0);
	}
	__u8 *data = (void *)(long)skb->data + l3;
	if ((void *)(data + ports_at + sizeof(ports)) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	data[ttl_at] = TTL;
	if (flows_mask) /* of a single flow the packet keeps its ports */
		*(__u32 *)(data + ports_at) = *(__u32 *)ports;
	bpf_tail_call(skb, &under_test, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
