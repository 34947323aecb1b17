"""``wiper completion SHELL``: what a shell needs to complete wiper's commands, options and names."""

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from wiper_cli.commands.shared.help import Command

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

#: Set by the shell's function when it asks; click looks for it under this name.
VARIABLE = "_WIPER_COMPLETE"


@click.command(
    cls=Command,
    examples=(
        'eval "$(wiper completion bash)"    # in ~/.bashrc; for zsh in ~/.zshrc',
        "wiper completion fish > ~/.config/fish/completions/wiper.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, and the names of formats, detectors, rules, methods,
    architectures and triggers."""
    kind: type[ShellComplete] | None = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "wiper", VARIABLE).source())
