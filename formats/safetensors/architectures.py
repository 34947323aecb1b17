"""From tensors to a network: which architecture fits, and how it is built.

In this order: the ``--arch`` option, a description beside the file, the header's metadata, the fingerprint of
names and shapes. A named architecture must still fit the tensors.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from formats.errors import UnknownArchitecture, Unsupported
from formats.model import Architecture, Manifest, Source
from formats.safetensors import research, transformers_networks
from formats.safetensors.fingerprint import Match, Shapes, is_counter, load_index, look_up
from formats.safetensors.names import TRANSFORMERS, absent
from formats.safetensors.torchvision_stub import import_torchvision
from formats.sidecar import architecture_hint, descriptions

#: Prefixes that wrappers put before every name: DataParallel, torch.compile, and common holders.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.", "timm_model.")


@dataclass(frozen=True)
class Choice:
    """A network with fresh weights. ``names``: name in the file → name in its state."""

    network: nn.Module
    architecture: Architecture
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()


def choose(source: Source, manifest: Manifest, arch: str | None) -> Choice:
    """Build the network for a file. Raises :class:`UnknownArchitecture` when none is known that fits."""
    spellings = without_wrappers(manifest)
    if arch is not None and ".py:" in arch:
        note = f"the code in {arch.rpartition(':')[0]} was run to build the network"
        network = _from_file(arch)
        own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
        prefix = next((prefix for prefix, shapes in spellings.items() if own <= shapes.keys()), "")
        return Choice(network, Architecture(arch, "option"), _less(prefix, manifest), (note,))
    hint = architecture_hint(source, manifest)
    wanted, how = (arch, "option") if arch else hint or (None, "fingerprint")
    library, _, name = (wanted or "").partition("/")
    if library == "transformers" and name in TRANSFORMERS:
        return _described(source, manifest, name, how)
    prefix, fitting = next(
        ((prefix, found) for prefix, shapes in spellings.items() if (found := matches(shapes))),
        (list(spellings)[-1], []),
    )
    shapes = spellings[prefix]
    names = tuple(full_name(match) for match in fitting)
    notes: list[str] = []
    if wanted is not None:
        chosen = [match for match in fitting if wanted in (match.name, full_name(match))]
        named = chosen or _by_name(wanted, shapes)
        if not named and arch is None:
            notes.append(f"{how} names the architecture {wanted!r}, which is not known; shapes decided")
            how = "fingerprint"
        elif not named:
            raise UnknownArchitecture(_unknown(absent(wanted), names), names)
        else:
            network = _build(named[0], shapes)
            return Choice(
                network, Architecture(full_name(named[0]), how), _less(prefix, manifest), tuple(notes)
            )
    if not fitting:
        said = f", and {hint[1]} names {hint[0]!r}, which is not known" if hint else ""
        raise UnknownArchitecture(
            _unknown(f"No known architecture has the {len(shapes)} tensors of this file{said}", ())
        )
    network, match = _first_that_builds(fitting, shapes)
    if len(fitting) > 1:
        notes.append(
            f"shapes cannot tell {', '.join(names)} apart; {full_name(match)} was taken: "
            "accuracy on clean images should decide"
        )
    candidates = names if len(fitting) > 1 else ()
    return Choice(
        network, Architecture(full_name(match), how, candidates), _less(prefix, manifest), tuple(notes)
    )


def _less(prefix: str, manifest: Manifest) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in manifest.tensors}


def _described(source: Source, manifest: Manifest, name: str, how: str) -> Choice:
    """A network of transformers, by the description beside the file."""
    described = descriptions(source, manifest).get("config.json", {})
    shapes = {name: a.shape for name, a in manifest.tensors.items()}
    network, names = transformers_networks.build(name, described, shapes)
    notes = (
        ("config.json names code of its own (auto_map), which is never run",)
        if "auto_map" in described
        else ()
    )
    return Choice(network, Architecture(f"transformers/{name}", how), names, notes)


def definition(arch: str, shapes: Shapes) -> tuple[nn.Module, str]:
    """The network that ``--arch`` names, sized by what it has in common with ``shapes``, and its full name.

    Raises :class:`UnknownArchitecture` when none is called so.
    """
    if ".py:" in arch:
        return _from_file(arch), arch
    named = _by_name(arch, shapes) or [
        one for one in research.alike(shapes) if arch in (one.name, full_name(one))
    ]
    if not named:
        raise UnknownArchitecture(_unknown(absent(arch), ()))
    return _build(named[0], shapes), full_name(named[0])


def matches(shapes: Shapes) -> list[Match]:
    """Every architecture with these names and shapes, the most common first."""
    return look_up(shapes) or research.match(shapes)


def full_name(match: Match) -> str:
    """``library/name``, the unambiguous spelling for ``--arch``."""
    return f"{match.library}/{match.name}"


def without_wrappers(manifest: Manifest) -> dict[str, dict[str, tuple[int, ...]]]:
    """Prefix that all names share, from none to the longest → shapes by name without it."""
    prefix = ""
    found = {}
    while True:
        found[prefix] = {name.removeprefix(prefix): a.shape for name, a in manifest.tensors.items()}
        names = found[prefix]
        wrapper = next((w for w in _WRAPPERS if names and all(name.startswith(w) for name in names)), None)
        if wrapper is None:
            return found
        prefix += wrapper


class _NoInit(TorchFunctionMode):
    """Random initialisation is skipped: every weight is loaded afterwards."""

    _SKIPPED: Mapping[Any, int] = dict.fromkeys((torch.Tensor.normal_, torch.Tensor.uniform_), 0)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._SKIPPED:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _fresh() -> Iterator[None]:
    """Build without spending time on random weights and without touching the caller's generator."""
    with torch.random.fork_rng(devices=[]), _NoInit():
        yield


def _build(match: Match, shapes: Shapes) -> nn.Module:
    if match.library == "research":
        build: Callable[[], Any] = partial(research.build, match, shapes)
    elif match.library == "torchvision":
        models = import_torchvision().models
        build = partial(
            models.get_model, match.name, weights=None, num_classes=match.classes, **match.arguments
        )
    else:
        build = partial(_timm().create_model, match.name, num_classes=match.classes, **match.arguments)
    with _fresh():
        network: nn.Module = build()
    return network


def _timm() -> Any:
    import_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        raise Unsupported("This architecture is one of timm's: pip install timm") from error
    return timm


def _first_that_builds(fitting: list[Match], shapes: Shapes) -> tuple[nn.Module, Match]:
    """timm may be missing; then another library's equal architecture will do."""
    for match in fitting[:-1]:
        try:
            return _build(match, shapes), match
        except Unsupported:
            continue
    return _build(fitting[-1], shapes), fitting[-1]


def _by_name(wanted: str, shapes: Shapes) -> list[Match]:
    """An architecture of the index by its name although the shapes differ; loading says where."""
    found = []
    for library in ("torchvision", "timm"):
        index = load_index(library)
        for model in index["models"]:
            if wanted in (model["name"], f"{library}/{model['name']}"):
                head = [name for name in index["heads"][model["head"]] if shapes.get(name)]
                if head:
                    found.append(Match(library, model["name"], model["arguments"], shapes[head[0]][0]))
    return found


def _unknown(problem: str, fitting: tuple[str, ...]) -> str:
    hint = f"; these fit: {', '.join(fitting)}" if fitting else ""
    return (
        f"{problem}{hint}. Name it with --arch NAME, or give code that builds it with --arch FILE.py:FACTORY "
        "(a function without arguments that returns the network)."
    )


def _from_file(arch: str) -> nn.Module:
    """Run a factory in a Python file of the user's; its folder can be imported from meanwhile."""
    path, _, factory = arch.rpartition(":")
    file = Path(path).resolve()
    spec = importlib.util.spec_from_file_location(f"wiper_architecture_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise Unsupported(f"--arch names the file {path}, which does not exist.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        network = getattr(module, factory)()
    except Exception as error:  # whatever the user's code raises is told, not shown as a traceback
        raise Unsupported(f"--arch {arch} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    if not isinstance(network, nn.Module):
        raise Unsupported(f"--arch {arch} returned {type(network).__name__}, not a torch.nn.Module.")
    return network


def load_state(choice: Choice, state: Mapping[str, Tensor]) -> None:
    """Load tensors (under the file's names, of any float dtype) into the network, in float32.

    Raises :class:`UnknownArchitecture` with the first tensor that is missing, left over or of another shape.
    """
    values = {choice.names[name]: value for name, value in state.items() if name in choice.names}
    own = choice.network.state_dict()
    name = choice.architecture.name
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - values.keys() - counters)
    left_over = sorted(k for k in values.keys() - own.keys() if not is_counter(k, tuple(values[k].shape)))
    wrong = [key for key in own.keys() & values.keys() if own[key].shape != values[key].shape]
    if missing or left_over or wrong:
        key = (sorted(wrong) or missing or left_over)[0]
        if wrong:
            problem = f"{key!r} has shape {list(values[key].shape)}, not {list(own[key].shape)}"
        else:
            problem = f"{key!r} is missing" if missing else f"{key!r} belongs to no layer of it"
        raise UnknownArchitecture(
            f"The tensors do not fit {name}: {problem}. Describe the network with --arch FILE.py:FACTORY."
        )
    # The network's own dictionary: it also carries the version that some layers ask for.
    own.update({key: values[key] for key in own.keys() & values.keys()})
    choice.network.load_state_dict(own)
    choice.network.float().eval()
