// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * A turntable for datapath.py: gives the program under test a packet of another
 * flow at every run. It undoes what the last run did to the packet (a hop less,
 * a link header in front), so that one test-run may have any number of rounds.
 * With `nothing` under test, what the turntable itself costs is known.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum layout { LINK_HEADER = 14, MOST_HEAD = 44, HOPS = 64, FIRST_PORT = 1024, PORT_BITS = 15 };
enum generator { MULTIPLIER = 25173, INCREMENT = 13849 };

const volatile __u32 flows_mask = 0; /* number of flows - 1: a power of two less one */
const volatile __u32 l3 = LINK_HEADER; /* where the IP header is; 0: no link header */
const volatile __u32 length = 64; /* of the packet as it was given */
const volatile __u32 hops_at = 8; /* in the IP header: TTL, or the hop limit */
const volatile __u32 ports_at = 20; /* behind the IP header */
const volatile __u8 head[MOST_HEAD] = {}; /* the packet's start, as far as the ports */

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

/* Takes the link header off that delivery put in front. */
static __always_inline void restore_start(struct __sk_buff *skb)
{
	__u8 start[MOST_HEAD];

	if (skb->len > length)
		bpf_skb_adjust_room(skb, -LINK_HEADER, BPF_ADJ_ROOM_MAC, 0);
	for (int i = 0; i < MOST_HEAD; i++)
		start[i] = head[i];
	bpf_skb_store_bytes(skb, 0, start, sizeof(start), 0);
}

SEC("tc")
int turn(struct __sk_buff *skb)
{
	__u32 flow = next_flow();
	__be16 ports[] = {bpf_htons(FIRST_PORT + (flow & ((1 << PORT_BITS) - 1))),
			  bpf_htons(FIRST_PORT + (flow >> PORT_BITS))};

	if (!l3)
		restore_start(skb);
	__u8 *ip = (void *)(long)skb->data + l3;
	if ((void *)(ip + ports_at + sizeof(ports)) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	ip[hops_at] = HOPS;
	if (flows_mask) /* of a single flow the packet keeps its ports */
		*(__u32 *)(ip + ports_at) = *(__u32 *)ports;
	bpf_tail_call(skb, &under_test, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
