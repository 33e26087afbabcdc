// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from a device of a trusted segment, where packets go without encryption
 * (VXLAN-GPE, draft-ietf-nvo3-vxlan-gpe: IP in UDP, no inner link header). The
 * device asks of each packet where it is to go, and tells where it came from; what
 * WireGuard proves by keys is here believed if the packet came in by the right
 * uplink (from_uplink says so with a mark), from the address of the right uplink.
 */
#include "tunnel.h"

enum outer { OUTER_HOPS = 64 };

static __always_inline struct plain_end *end_at(const struct __sk_buff *skb, __u32 place)
{
	struct plain_key key = {.ifindex = skb->ifindex, .place = place};

	return bpf_map_lookup_elem(&plain_ends, &key);
}

static __always_inline bool is_from4(struct __sk_buff *skb, const struct plain_end *end)
{
	struct bpf_tunnel_key outer;

	return !bpf_skb_get_tunnel_key(skb, &outer, sizeof(outer), 0) &&
	       outer.remote_ipv4 == bpf_ntohl(end->remote.word[3]);
}

static __always_inline bool is_from6(struct __sk_buff *skb, const struct plain_end *end)
{
	struct bpf_tunnel_key outer;
	struct addr remote;

	if (bpf_skb_get_tunnel_key(skb, &outer, sizeof(outer), BPF_F_TUNINFO_IPV6))
		return false;
	__builtin_memcpy(&remote, outer.remote_ipv6, sizeof(remote));
	return remote.half[0] == end->remote.half[0] && remote.half[1] == end->remote.half[1];
}

static __noinline bool is_proved(struct __sk_buff *skb, __u32 place)
{
	struct plain_end *end = end_at(skb, place);

	if (!end || skb->cb[CAME_BY] != end->mark)
		return false;
	return is_v4(&end->remote) ? is_from4(skb, end) : is_from6(skb, end);
}

/* Like WireGuard without "don't fragment", and with a checksum only where IPv6 asks for it (RFC 6935). */
static __always_inline long address_it(struct __sk_buff *skb, const struct plain_end *end)
{
	struct bpf_tunnel_key outer = {.tunnel_id = end->vni, .tunnel_ttl = OUTER_HOPS};

	if (is_v4(&end->remote)) {
		outer.remote_ipv4 = bpf_ntohl(end->remote.word[3]);
		outer.local_ipv4 = bpf_ntohl(end->local.word[3]);
		return bpf_skb_set_tunnel_key(skb, &outer, sizeof(outer), BPF_F_ZERO_CSUM_TX);
	}
	__builtin_memcpy(outer.remote_ipv6, &end->remote, sizeof(outer.remote_ipv6));
	__builtin_memcpy(outer.local_ipv6, &end->local, sizeof(outer.local_ipv6));
	return bpf_skb_set_tunnel_key(skb, &outer, sizeof(outer), BPF_F_TUNINFO_IPV6);
}

SEC("tc")
int from_plain(struct __sk_buff *skb)
{
	skb->cb[CAME_BY] = skb->mark;
	skb->mark = 0;
	return leaves_tunnel(skb);
}

SEC("tc")
int to_plain(struct __sk_buff *skb)
{
	__u32 place = NO_PLACE;
	int verdict = enters_tunnel(skb, &place);

	if (verdict != TC_ACT_UNSPEC)
		return verdict;
	struct plain_end *end = end_at(skb, place);
	if (!end || !is_trusted(end->mark - plain_mark) || address_it(skb, end))
		return drop(skb, NO_PATH);
	skb->mark = end->mark;
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
