"""The command line: asks the agent or the store, and prints; it decides nothing.

    __main__ --> app (names, errors, exit codes) --> one module for each noun, imported when it is meant
                                                        |
             ask (agent's socket)  operator (etcd) <----+----> output (table, json, yaml)

The agent owns what the listings say (`meshfabric.api.messages.Ask`); here is only how it looks.
"""
