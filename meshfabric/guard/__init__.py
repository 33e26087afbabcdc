"""The boot guard: a fabric's packets use the fabric's own devices or none, whatever else is broken.

    /etc/meshfabric/guard.yaml --file--> Guard --ruleset--> nftables and routes, as text
                                                               |
                              boot, or an operator --install---+--> the kernel

It is put up before any network is, needs neither agent nor etcd, and the agent never
takes it away. eBPF on declared uplinks drops what is the fabric's on sight; the
guard goes by exclusion, and so covers cards that nobody has declared, programs that
somebody took off, and the time before there are any. It is a second wall, made
of other stones: rules of netfilter, and unreachable routes.

`kernel.nft` and `kernel.routes` do it, `observed` reads it back, `cli.guard` prints.
Little is imported here, because it runs while a machine boots; a contract in
pyproject.toml says what not.
"""
