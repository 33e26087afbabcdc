/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Every map of the datapath: who writes it, who reads it. All are pinned and
 * outlive the agent. When another build changes the shape of one, its entries are
 * moved, field by field name; the tags say what else that takes (kernel/upgrade.py).
 */
#ifndef MESHFABRIC_MAPS_H
#define MESHFABRIC_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"
#include "clocks.h"
#include "crossing.h"
#include "reason.h"

#define BY_DATAPATH __attribute__((btf_decl_tag("written by the datapath"))) /* while entries move, too */
#define A_COPY __attribute__((btf_decl_tag("a copy"))) /* or of the moment: may start empty */

/* Whose address is it? Agent writes; read for a flow's first packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct address_key);
	__type(value, struct address_value);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} addresses SEC(".maps");

/* What is allowed? Agent writes, for the identities of local workloads; read for a flow's first packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} policy SEC(".maps");

/* Conversations that policies in audit would have stopped. What finds it full is counted, and told no further.
 * Datapath writes, agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} audits SEC(".maps") A_COPY;

/* The local workloads by place. Agent writes; read for every packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct workload);
	__uint(max_entries, FIRST_NODE);
} workloads SEC(".maps");

/* What class is it of? Agent writes, for local workloads; read for a flow's first packet, and for every one to
 * another node of a workload with rules about DSCP. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct class_rule_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} class_rules SEC(".maps");

/* The classes by number. Agent writes; read for every packet of a tunnel's that leaves by an uplink with one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct traffic_class);
	__uint(max_entries, CLASSES);
} classes SEC(".maps");

/* When each uplink is free, by slot. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct clocks);
	__uint(max_entries, MAX_SLOTS);
} clocks SEC(".maps") A_COPY;

/* What became of each class, by slot * CLASSES + class. Datapath writes, agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct class_counter);
	__uint(max_entries, (MAX_SLOTS * CLASSES));
} class_counters SEC(".maps") BY_DATAPATH;

/* Which workload is behind a device? Agent writes; read for a flow's first packet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, FIRST_NODE);
} devices SEC(".maps");

/* The other nodes by place - FIRST_NODE. Agent writes; read for every packet to another node. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct node);
	__uint(max_entries, MAX_NODES);
} nodes SEC(".maps");

/* Where tunnels without encryption lead. Agent writes; read for every packet in and out of one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct plain_key);
	__type(value, struct plain_end);
	__uint(max_entries, (MAX_NODES * MAX_PATHS));
	__uint(map_flags, BPF_F_NO_PREALLOC);
} plain_ends SEC(".maps");

/* The sockets whose packets are handed on. Agent writes; read for every packet to a port for that. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct relay_source_key);
	__type(value, struct relay_source);
	__uint(max_entries, RELAYED_ENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} relay_sources SEC(".maps");

/* Where they are handed on to. Agent writes; read for every one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct relay_end);
	__type(value, struct relay_target);
	__uint(max_entries, RELAYED_ENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} relay_ends SEC(".maps");

/* What each node whose packets are handed on has spent of its rate, by place - FIRST_NODE. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct budget);
	__uint(max_entries, RELAYED_NODES);
} relay_budgets SEC(".maps") A_COPY;

/* How each tunnel fares. Datapath writes, agent reads, and moves what is known of a tunnel along with it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct path);
	__uint(max_entries, (MAX_NODES * MAX_PATHS));
} paths SEC(".maps") BY_DATAPATH;

/* Paths that were given up or are trusted again, for people. What finds it full is not told. Datapath writes,
 * agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} turns SEC(".maps") A_COPY;

/* Connections that share paths, each at the one place that its key is hashed to. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct watched);
	__uint(max_entries, WATCHED_FLOWS);
} watched SEC(".maps") A_COPY;

/* What probes to each node are made from, by place - FIRST_NODE. Agent writes, the token reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct probe_ends);
	__uint(max_entries, MAX_NODES);
} probes SEC(".maps");

/* A bit for each node that there was traffic for of late. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, ACTIVE_WORDS);
} active SEC(".maps") A_COPY;

/* Where the token goes round. Agent writes; read when traffic begins, and by the token. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct loop);
	__uint(max_entries, 1);
} loop SEC(".maps");

/* Datapath writes, agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct token);
	__uint(max_entries, 1);
} token SEC(".maps") A_COPY;

/* Bumped, last, after anything changed that a verdict about the place was made from. Agent writes; every packet reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, PLACES);
} generations SEC(".maps");

/* Flows that are not established, or not any more: a flood evicts only its like. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 65536);
} new_flows SEC(".maps") BY_DATAPATH;

/* Established flows, preallocated. Nobody is evicted: who finds no room stays in new_flows. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 131072);
} flows SEC(".maps") BY_DATAPATH;

/* Whose is an answer from the world? Of flows without one yet, by the key that it has there. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct nat);
	__uint(max_entries, 65536);
} new_nat SEC(".maps") BY_DATAPATH;

/* The same of established flows. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct nat);
	__uint(max_entries, 131072);
} nat SEC(".maps") BY_DATAPATH;

/* How many of `flows` each workload has, by place. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __s32);
	__uint(max_entries, FIRST_NODE);
} shares SEC(".maps") BY_DATAPATH;

/* How `flows` was last rid of what had been silent for too long. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sweep);
	__uint(max_entries, 1);
} sweeps SEC(".maps") A_COPY;

/* Established flows of the last seconds, each at the one place that its key is hashed to: a packet reads
 * one cache line instead of the four that a hash map takes. Only ever a copy, so all of it may be lost.
 * Datapath writes. (To be mapped into memory an array starts on a page, thus on a cache line.) */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct recent);
	__uint(max_entries, RECENT_FLOWS);
	__uint(map_flags, BPF_F_MMAPABLE);
} recent SEC(".maps") A_COPY;

/* Ports of the first fragment, for those that follow. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 4096);
} fragments SEC(".maps") BY_DATAPATH;

/* How much each workload was told of late, by place. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct budget);
	__uint(max_entries, FIRST_NODE);
} complaints SEC(".maps") A_COPY;

/* Where a packet that is turned into an error about itself waits. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct quote);
	__uint(max_entries, 1);
} quotes SEC(".maps") A_COPY;

/* Where a packet to or from the world is worked on. Datapath writes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct crossing);
	__uint(max_entries, 1);
} crossings SEC(".maps") A_COPY;

/* Agent writes; read for every packet on an uplink. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct fabric);
	__uint(max_entries, 1);
} fabric SEC(".maps");

/* The uplink devices by slot. Agent writes; read for every WireGuard packet that arrives, and to the world. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct uplink);
	__uint(max_entries, MAX_SLOTS);
} uplinks SEC(".maps");

/* Verdicts by enum reason. Datapath writes, agent reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(max_entries, REASONS);
} reasons SEC(".maps") BY_DATAPATH;

#endif
