"""``python -m wiper_cli.purifiers`` prints ``docs/methods.md``. Imports no torch."""

from collections import Counter
from dataclasses import MISSING, fields

from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purifier
from wiper_cli.purifiers.options import NEEDS

#: In so many methods an option with one default is told once.
OFTEN = 5
_HEAD = ("| option | default | what | presets |", "|---|---|---|---|")

INTRODUCTION = """\
# Methods of `wiper purify`

Printed by `python -m wiper_cli.purifiers`. `--method NAME`, the first is the default; `--preset NAME` gives named
settings, and single options override them. `paper` has the numbers of the method's own paper or, for the baselines
of the paper *WIPER*, those of its appendix A.4; `field` has those of public benchmarks. Where defaults differ from
both, most are shorter and gentler, since deployed networks have batch norm frozen or folded and few clean images.
`--batch-norm live` trains it with its statistics where the table says so and the file has them (safetensors). What a
method changes against its source is told in `wiper_cli/purifiers/methods/NAME`; what each achieved in
[results/table2-tiny.md](results/table2-tiny.md).

| method | what | needs | live batch norm | presets |
|---|---|---|---|---|"""


def markdown() -> str:
    """One table of the methods, one of the options that most share, and one of its own options for each."""
    lines = [INTRODUCTION]
    for name, kind in METHODS.items():
        settings = kind()
        needs = ", ".join(word for key, word in NEEDS.items() if key in settings.needs)
        presets = ", ".join(f"`{preset}`" for preset in kind.presets) or "–"
        lines.append(
            f"| [`{name}`](#{name}) | {kind.title} | {needs} | {'yes' if kind.trains_live else 'no'} | {presets} |"
        )
    options = {name: _options(kind) for name, kind in METHODS.items()}
    counted = Counter(option for rows in options.values() for option in rows)
    usual: dict[str, tuple[str, str]] = {}
    for (option, row), count in counted.most_common():
        if count >= OFTEN:
            usual.setdefault(option, (option, row))
    lines += ["", "## Usual options", "", *_HEAD, *(f"| `{option}` {row}" for option, row in usual.values())]
    for name, rows in options.items():
        as_usual = ", ".join(f"`{option}`" for option, row in rows if usual.get(option) == (option, row))
        lines += ["", f"## {name}", "", *_HEAD]
        lines += [f"| `{option}` {row}" for option, row in rows if usual.get(option) != (option, row)]
        lines += [f"| {as_usual} | | as [usual](#usual-options) | |"] if as_usual else []
    return "\n".join(lines) + "\n"


def _options(kind: type[Purifier]) -> list[tuple[str, str]]:
    """Every option and the rest of its row."""
    found = []
    for item in fields(kind):  # type: ignore[arg-type]
        assert item.default is not MISSING
        other = ", ".join(
            f"{preset} {own[item.name]}" for preset, own in kind.presets.items() if item.name in own
        )
        row = f"| {item.default} | {item.metadata['help']} | {other} |"
        found.append((f"--{item.name.replace('_', '-')}", row))
    return found


if __name__ == "__main__":
    print(markdown(), end="")
