"""The `meshfabric` command and `python -m meshfabric`: hands over to `cli.app`, which owns the commands."""

import os
import sys

# gRPC's C core writes of its own accord to standard error; what matters is in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def main() -> int:
    """Run the command line and return its exit code (`cli.exits.Code`)."""
    from meshfabric.cli.exits import Code

    try:
        from meshfabric.cli.app import run

        return run()
    except KeyboardInterrupt:  # also in the first tenth of a second, while modules are imported
        return Code.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
