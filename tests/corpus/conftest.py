"""The command in this process."""

from tests.wiper_cli.commands.conftest import child, wiper  # noqa: F401
