"""What detectors found, as plain data that outlives a scan that was broken off, and back."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from formats import NewTensor
from formats.tensors import TORCH, from_bytes, to_bytes
from wiper_cli.audit.answers import Kept, KeptPiece, KeptTransform
from wiper_cli.audit.results import jsonable
from wiper_cli.detectors.evidence import Detector, Evidence
from wiper_cli.perturbations import Recovered

_NAMES = {dtype: name for name, dtype in TORCH.items()}


def keep(found: Iterable[Evidence], detectors: Mapping[str, Detector]) -> Kept:
    """What of ``found`` can be told again as it was: by detectors that looked, in numbers that JSON has (NaN only for
    classes that were not looked at). ``detectors``: their settings."""
    told = [piece for piece in found if piece.ran and all(map(math.isfinite, _numbers(piece)))]
    pieces, tensors = [], {}
    for number, piece in enumerate(told):
        recovered = []
        for place, one in enumerate(piece.recovered):
            facts, mapping = jsonable(one.facts), _pairs(one.mapping)
            recovered.append(
                KeptTransform(family=one.family, target=int(one.target), facts=facts, mapping=mapping)
            )
            for name, value in one.parameters.items():
                new = NewTensor(_NAMES[value.dtype], tuple(value.shape), to_bytes(value))
                tensors[f"{number}.{place}.{name}"] = new
        pieces.append(
            KeptPiece(
                name=piece.name,
                settings=_settings(detectors[piece.name]),
                reason=piece.reason,
                statistic=piece.statistic,
                threshold=piece.threshold,
                threshold_origin=piece.threshold_origin,
                false_alarm_rate=piece.false_alarm_rate,
                fired=piece.fired,
                target=piece.target,
                mapping=_pairs(piece.mapping),
                per_class=tuple(None if math.isnan(value) else float(value) for value in piece.per_class),
                suspects=tuple(map(int, piece.suspects)),
                recovered=tuple(recovered),
                facts=jsonable(piece.facts),
                seconds=piece.seconds,
            )
        )
    return Kept(pieces=tuple(pieces), tensors=tensors)


def restore(kept: Kept, detectors: Mapping[str, Detector]) -> dict[str, Evidence]:
    """By name, what :func:`keep` took of those of ``detectors`` that have the same settings now."""
    found = {}
    for number, piece in enumerate(kept.pieces):
        if piece.name in detectors and piece.settings == _settings(detectors[piece.name]):
            told = {name: value for name, value in vars(piece).items() if name != "settings"}
            told["mapping"] = dict(piece.mapping)
            told["per_class"] = [math.nan if value is None else value for value in piece.per_class]
            told["recovered"] = [
                Recovered(
                    one.family,
                    one.target,
                    _parameters(kept, f"{number}.{place}."),
                    one.facts,
                    dict(one.mapping),
                )
                for place, one in enumerate(piece.recovered)
            ]
            found[piece.name] = Evidence(ran=True, title=detectors[piece.name].title, **told)
    return found


def _pairs(mapping: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """JSON would make text of the keys."""
    return tuple((int(one), int(other)) for one, other in mapping.items())


def _settings(detector: Detector) -> Any:
    return jsonable(asdict(detector))


def _numbers(piece: Evidence) -> Iterator[float]:
    """All by which :mod:`wiper_cli.audit.judgement` judges."""
    yield from (value for value in (piece.statistic, piece.threshold) if value is not None)
    yield from (value for value in piece.per_class if not math.isnan(value))
    yield from (float(one.facts.get("success", 0.0)) for one in piece.recovered)


def _parameters(kept: Kept, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): from_bytes(one.data, one.dtype, one.shape)
        for name, one in kept.tensors.items()
        if name.startswith(prefix)
    }
