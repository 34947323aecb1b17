"""``python -m wiper_cli.purifiers`` prints ``docs/methods.md``. Imports no torch."""

from __future__ import annotations

from dataclasses import MISSING, fields

from wiper_cli.purifiers import METHODS

#: What a method asks for, in words.
NEEDS = {
    "labels": "labels",
    "body": "gradients through the network",
    "head": "a linear head",
    "triggered": "images that carry the trigger",
}


INTRODUCTION = """\
# Methods of `wiper purify`

Printed by `python -m wiper_cli.purifiers`. `--method NAME`, the first is the default; `--preset NAME` gives named
settings, and single options override them. `paper` has the numbers of the method's own paper or, for the rivals that
WIPER compares with, those of its appendix A.4; `field` has those of public benchmarks. Where defaults differ from both,
most are shorter and gentler, since deployed networks have batch norm frozen or folded and few clean images.
`--batch-norm live` trains it with its statistics where the table says so and the file has them (safetensors). What a
method changes against its source is told in `wiper_cli/purifiers/methods/NAME`; what each achieved in
[results/table2-tiny.md](results/table2-tiny.md).

| method | what | needs | live batch norm | presets |
|---|---|---|---|---|"""


def markdown() -> str:
    """One table of the methods, and one of settings for each."""
    lines = [INTRODUCTION]
    for name, kind in METHODS.items():
        settings = kind()
        needs = ", ".join(word for key, word in NEEDS.items() if key in settings.needs)
        presets = ", ".join(f"`{preset}`" for preset in kind.presets) or "–"
        lines.append(
            f"| [`{name}`](#{name}) | {kind.title} | {needs} | {'yes' if kind.trains_live else 'no'} | {presets} |"
        )
    for name, kind in METHODS.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{kind.title}.",
            "",
            "| option | default | what | presets |",
            "|---|---|---|---|",
        ]
        for item in fields(kind):  # type: ignore[arg-type]
            assert item.default is not MISSING
            other = ", ".join(
                f"{preset} {own[item.name]}" for preset, own in kind.presets.items() if item.name in own
            )
            option = f"--{item.name.replace('_', '-')}"
            lines.append(f"| `{option}` | {item.default} | {item.metadata['help']} | {other} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
