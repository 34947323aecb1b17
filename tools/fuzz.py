"""``python -m tools.fuzz [TARGET…] --seconds N``: coverage-guided fuzzing of what reads a stranger's bytes.

A fault is whatever a target raises that is none of its reader's own errors, an answer that another reader contradicts,
more than 5 s for one input, or more than 1 GiB. It is written to ``.fuzz/TARGET/`` and the exit code is 1; put it among
the seeds (``tests/tools/seeds/TARGET/``), which the tests replay, once it is mended. Needs atheris (Linux).
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests" / "tools" / "seeds"
#: Sample reports that have every section between them.
WHOLE = ("purify_accepted", "refused", "scan_explained")
#: Processor seconds and MiB that one input may take.
SECONDS, MEMORY = 5, 1024
#: Set where a campaign (tools/campaign.py) asks: a machine that is busy may take long on the clock.
CAMPAIGN = "WIPER_FUZZ_CAMPAIGN"


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What readers raise is a sentence of one line that shows nothing but letters."""
    from formats import FormatError

    try:
        yield
    except FormatError as error:
        if not all(line.isprintable() for line in str(error).splitlines()):
            raise AssertionError("a sentence with what nobody can see") from error


def file(data: bytes) -> None:
    """A model file of whatever kind, as the gate judges it."""
    from formats import Source, inspect
    from formats.identify import external_locations

    with refusals():
        external_locations(Source("m", data))
        inspect(Source("m", data, {"weights.data": bytes(4096)}))


def safetensors(data: bytes) -> None:
    """What is accepted, the library accepts with the same tensors."""
    from safetensors import deserialize

    from formats.safetensors.manifest import read_header

    with refusals():
        tensors, _ = read_header(data)
        theirs = {
            name: (one["dtype"], tuple(one["shape"]), bytes(one["data"])) for name, one in deserialize(data)
        }
        assert theirs == {
            one.name: (one.dtype, one.shape, data[one.offset : one.offset + one.length]) for one in tensors
        }


def onnx(data: bytes) -> None:
    """A protobuf message with a graph."""
    from formats import Source
    from formats.onnx.manifest import external_locations, read_manifest

    with refusals():
        external_locations(data)
        read_manifest(Source("m", data, {"weights.data": bytes(4096)}))


def torchscript(data: bytes) -> None:
    """An archive; its members are changed, not its bytes (:func:`repacked`)."""
    from formats import Source
    from formats.torchscript.manifest import read_manifest

    with refusals():
        read_manifest(Source("m", data))


def zip(data: bytes) -> None:
    """What is accepted, zipfile opens with the same members."""
    from formats.torchscript.central import read_archive

    with refusals():
        archive = read_archive(data)
        with zipfile.ZipFile(io.BytesIO(data)) as other:
            for name in archive.entries:
                assert archive.read(name) == other.read(f"{archive.root}/{name}")


def code(data: bytes) -> None:
    """One code file of an archive."""
    from formats.torchscript.code import read_code
    from formats.torchscript.operators import check_operators

    with refusals():
        check_operators(read_code({"code/__torch__/m.py": data}).used)


def pickle(data: bytes) -> None:
    """A pickle of an archive whose code has the classes of a seed."""
    from formats.torchscript.pickles import named_tensors, read_pickle

    with refusals():
        list(named_tensors(read_pickle(data, "data.pkl", _classes())))


@cache
def _classes() -> Mapping[str, Any]:
    from formats.torchscript.code import read_code

    return read_code({"code/__torch__.py": (SEEDS / "classes.py.txt").read_bytes()}).classes


def checkpoint(data: bytes) -> None:
    """A checkpoint of ``torch.save``; what is made of it is a safetensors file."""
    from formats import Source, inspect
    from formats.checkpoint.convert import convert

    with refusals():
        inspect(Source("m", convert(data).data))


def sidecars(data: bytes) -> None:
    """A description beside a model, or in its metadata: no error at all."""
    from formats import Manifest, Source
    from formats.sidecar import architecture_hint, class_names_hint, preprocessing_hint

    text = data.decode(errors="replace")
    source = Source("m", b"", sidecars={"config.json": data})
    for manifest in (
        Manifest("onnx", {}),
        Manifest("onnx", {}, dict.fromkeys(("mean", "size", "classes"), text)),
    ):
        hint = preprocessing_hint(source, manifest)
        assert hint is None or hint.size is None or max(hint.size) <= 1024
        architecture_hint(source, manifest)
        class_names_hint(source, manifest, 2)


def settings(data: bytes) -> None:
    """A ``wiper.toml`` that is merely found: it is refused, or it only tightens."""
    import click

    from wiper_cli.main import cli
    from wiper_cli.verdict import Problem

    group = cli()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        Path("wiper.toml").write_bytes(data)
        Path("m").touch()
        with contextlib.suppress(Problem, click.ClickException):
            context = click.Context(group, info_name="wiper")
            command = group.get_command(context, "scan")
            assert command is not None
            given = command.make_context("scan", ["m"], parent=context).params
            assert not given["exit_zero"]
            assert given["fail_on"] != "critical"
        assert sorted(path.name for path in Path().iterdir()) == ["m", "wiper.toml"]


def report(data: bytes) -> None:
    """A text that a file chose, everywhere in a report, in every format: it is words and nothing else."""
    sys.path.append(str(ROOT / "tests" / "shared"))
    samples, active = import_module("sample_reports"), import_module("inert").active
    from wiper_cli.reports import FORMATS, Style, render

    chosen, text = int.from_bytes(data[:2], "big"), data[2:].decode("utf-8", "surrogateescape")
    name, made = (sorted(table)[chosen % len(table)] for table in (FORMATS, WHOLE))
    shown = render(name, [samples.hostile(made, text)], Style(comment=True))
    assert active(shown) == []
    assert shown.encode().decode() == shown
    if name == "junit":
        ElementTree.fromstring(shown)
    elif name in ("json", "sarif", "cyclonedx", "in-toto"):
        json.loads(shown)
    elif name == "text":
        assert all(line == "#" or line.startswith("# ") for line in shown.splitlines())


def repacked(data: bytes, size: int, seed: int) -> bytes:
    """The archive with one of its members changed and all checksums right."""
    import atheris

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            members = {name: old.read(name) for name in old.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError):
        members = {}
    if not members:
        return bytes(atheris.Mutate(data, size))
    chosen = sorted(members)[seed % len(members)]
    members[chosen] = bytes(atheris.Mutate(members[chosen], max(1, min(size, len(members[chosen]) + 64))))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new:
        for name, content in members.items():
            new.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()[:size]


#: Name → what takes its bytes, and what is watched while it does.
TARGETS: Mapping[str, tuple[Callable[[bytes], None], str]] = {
    one.__name__: (one, watched)
    for one, watched in (
        (file, "formats.identify"), (safetensors, "formats.safetensors.manifest"), (onnx, "formats.onnx.manifest"),
        (torchscript, "formats.torchscript.manifest"), (zip, "formats.torchscript.central"),
        (code, "formats.torchscript.operators"), (pickle, "formats.torchscript.pickles"), (sidecars, "formats.sidecar"),
        (checkpoint, "formats.checkpoint.convert"),
        (settings, "wiper_cli.commands.shared.settings_file"), (report, "wiper_cli.reports.text"),
    )
}  # fmt: skip


def _fuzz(target: str, seconds: int, chance: int) -> None:
    """Runs in a process of its own, which libFuzzer ends."""
    import atheris

    place = ROOT / ".fuzz" / target
    place.mkdir(parents=True, exist_ok=True)
    run, watched = TARGETS[target]
    with atheris.instrument_imports(include=["formats", "wiper_cli"]):
        import_module(watched)
        for seed in sorted((SEEDS / target).iterdir()):  # whatever it imports in passing, or makes once
            run(seed.read_bytes())
    zipped = target in ("torchscript", "checkpoint")
    options: dict[str, Any] = {"custom_mutator": repacked} if zipped else {}
    campaign = CAMPAIGN in os.environ
    bounds = [
        f"-timeout={SECONDS * (60 if campaign else 1)}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_total_time={seconds}",
        f"-seed={chance}",
        "-max_len=65536",
        f"-print_final_stats={int(campaign)}",
    ]
    folders = [str(place / "found"), str(SEEDS / target)]
    (place / "found").mkdir(exist_ok=True)
    taken = _timed(run) if campaign else run
    atheris.Setup([sys.argv[0], *bounds, f"-artifact_prefix={place}/", *folders], taken, **options)
    if campaign:
        print(f"campaign: began after {time.process_time():.1f}", flush=True)
    atheris.Fuzz()


def _timed(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The same with the bound on time kept on the processor's."""

    def taken(data: bytes) -> None:
        began = time.process_time()
        run(data)
        if (spent := time.process_time() - began) > SECONDS:
            raise AssertionError(f"{spent:.0f} s of processor time")

    return taken


def main(arguments: list[str] | None = None) -> int:
    """Fuzzes each target in turn, two at a time; 1 where any has a fault."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="of chance; 0: another one every time")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; choose from {', '.join(TARGETS)}")
    if find_spec("atheris") is None:
        parser.error("this needs atheris, which is made for Linux: pip install atheris")
    if given.here:
        _fuzz(given.targets[0], given.seconds, given.seed)

    def one(target: str) -> bool:
        asked = ["--seconds", str(given.seconds), "--seed", str(given.seed)]
        command = [sys.executable, "-m", "tools.fuzz", target, "--here", *asked]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
        )
        said = done.stderr.splitlines()
        print(
            f"{target}: {said[-1] if said else ''}" if not done.returncode else done.stdout + done.stderr,
            flush=True,
        )
        return done.returncode == 0

    with ThreadPoolExecutor(2 if (os.cpu_count() or 1) > 1 else 1) as pool:
        return int(not all(pool.map(one, given.targets or TARGETS)))


if __name__ == "__main__":
    sys.exit(main())
