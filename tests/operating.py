"""The command line as an operator uses it, and what it leaves in an etcd of the tests."""

from typer.testing import CliRunner, Result

from meshfabric.cli.app import app
from meshfabric.store.keys import state_prefix
from tests.etcd import Server


def run(*arguments: object, stdin: str = "", **environment: str) -> Result:
    """Run `meshfabric`."""
    return CliRunner(env={"COLUMNS": None, **environment}).invoke(app, list(map(str, arguments)), input=stdin)


def command(noun: str, server: Server, fabric: str, verb: str, *arguments: object, stdin: str = "") -> Result:
    """Run a verb of a noun against a server."""
    return run(noun, verb, *arguments, "--etcd", server.endpoint, "--fabric", fabric, stdin=stdin)


def documents(folder: str, server: Server, fabric: str) -> dict[str, str]:
    """What etcd holds in a folder of the fabric, by name."""
    prefix = f"{state_prefix(fabric)}{folder}/"
    lines = server.ctl("get", "--prefix", prefix).splitlines()
    return {key.removeprefix(prefix): value for key, value in zip(lines[::2], lines[1::2], strict=True)}
