"""``wiper architectures [WORD]``: the networks that a file of tensors can be opened as."""

import click

from wiper_cli.commands.shared.completion import architectures as every_name
from wiper_cli.commands.shared.completion import names_of
from wiper_cli.commands.shared.help import Command
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem

#: What a library's networks need beside the file.
_NEEDS = {
    "torchvision": "known by their tensors, or by --arch",
    "timm": "known by their tensors, or by --arch; pip install timm",
    "transformers": "known by config.json beside the file; pip install transformers",
    "research": "known by their tensors, or by --arch; N and M are numbers that these tell",
}


@click.command(
    cls=Command,
    examples=(
        "wiper architectures",
        "wiper architectures resnet",
    ),
)
@click.argument("word", required=False, shell_complete=names_of(every_name))
def architectures(word: str | None) -> None:
    """List the names that --arch takes for a safetensors file, or those with WORD in them.

    TorchScript and ONNX files hold their own network and need no name. Any other network of a safetensors file: give
    code that builds it, with --arch FILE.py:FACTORY.
    """
    from formats.safetensors.names import known

    every = {f"{library}/{name}": library for library, names in known().items() for name in names}
    found = [name for name in every if word is None or word.lower() in name.lower()]
    if not found:
        plain = [name.partition("/")[2] for name in every]
        raise Problem(f"No architecture has {word!r} in its name{nearest(word or '', plain)}.")
    for library in dict.fromkeys(every[name] for name in found):
        click.echo(f"safetensors, {library}: {_NEEDS[library]}")
        for name in found:
            if every[name] == library:
                click.echo(f"  {name}")
