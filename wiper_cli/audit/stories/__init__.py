"""One file a command: its story from request to answer, told in steps that stand in :mod:`wiper_cli.audit`."""
