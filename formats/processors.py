"""What a description of preprocessing means, as the library that wrote it computes it. Standard library only.

Sources: ``timm.data.create_transform`` and the image processors of transformers (its PIL backend). Whatever is not of
the type and size that an honest description has is passed over, and nothing in one is taken for the name of a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from formats.model import Preprocessing

#: ``resample`` of transformers, which is Pillow's enumeration.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

#: Largest side of an image, in pixels, and smallest part of it that a crop leaves.
MAX_SIDE, LEAST_CROP = 1024, 0.5
#: What a mean stays below, and what a standard deviation lies between; images of 0..255 included.
MAX_MEAN, STD = 1e3, (1e-4, 1e3)
#: What timm takes where its configuration is silent.
_TIMM_CROP = 0.875
#: Processors that read a plain number as the length of the shorter side.
_SHORTER_SIDE = (
    "Bit", "Chinese_CLIP", "ChineseCLIP", "CLIP", "ConvNext", "Levit", "MobileNetV1", "MobileNetV2", "MobileViT",
    "PoolFormer",
)  # fmt: skip

Pair = tuple[int, int]
Numbers = tuple[float, ...]


def preprocessing_in(content: Mapping[str, Any], place: str) -> Preprocessing | None:
    """What one description says; ``None`` where it gives neither mean and standard deviation nor a size."""
    nested = content.get("pretrained_cfg")
    if isinstance(nested, dict):
        geometry, (mean, std) = _timm(nested, _TIMM_CROP), _numbers(nested)
    elif "input_size" in content:
        geometry, (mean, std) = _timm(content, None), _numbers(content)
    else:
        geometry, (mean, std) = _processor(content), _rescaled(content)
    size, resize, scaled = geometry
    if mean is None and std is None and size is None:
        return None
    values = nested if isinstance(nested, dict) else content
    number = values.get("resample")
    method = values.get("interpolation", _RESAMPLE.get(number) if type(number) is int else None)
    return Preprocessing(
        mean=mean,
        std=std,
        size=size,
        resize=resize,
        scaled=scaled,
        floor=bool(kind(content)),
        bgr=_flips(content),
        interpolation=method if method in [*_RESAMPLE.values()] else None,
        origin=place,
    )


def kind(content: Mapping[str, Any]) -> str:
    """The processor of transformers without the words that all have, such as "ConvNext"; "" for another description."""
    name = content.get("image_processor_type", content.get("feature_extractor_type"))
    found = (
        re.fullmatch(r"(\w{1,40}?)(ImageProcessor(Fast|Pil)?|FeatureExtractor)", name)
        if isinstance(name, str)
        else None
    )
    return found[1] if found else ""


def _flips(content: Mapping[str, Any]) -> bool:
    flip = content.get("do_flip_channel_order", kind(content) == "MobileViT")
    return flip is True or content.get("to_rgb") is False


def _timm(values: Mapping[str, Any], usual: float | None) -> tuple[Pair | None, int | None, Pair | None]:
    """(size, length of the shorter side before the crop, size before the crop)."""
    shape, crop = values.get("input_size"), values.get("crop_pct", usual)
    if not isinstance(shape, list) or len(shape) != 3 or not all(_side(n) > 0 for n in shape):
        return None, None, None
    size = shape[1], shape[2]
    if not isinstance(crop, int | float) or not LEAST_CROP <= crop <= 1:
        return size, None, None
    if values.get("crop_mode") == "squash":
        return size, None, (int(size[0] / crop), int(size[1] / crop))
    return size, int(size[0] / crop), None


def _processor(values: Mapping[str, Any]) -> tuple[Pair | None, int | None, Pair | None]:
    """As :func:`_timm`, of a processor of transformers."""
    name = kind(values)
    edge, exact = _sides(values.get("size"), name in _SHORTER_SIDE)
    _, cut = _sides(values.get("crop_size"), False)
    part = values.get("crop_pct")
    part = part if isinstance(part, int | float) and LEAST_CROP <= part <= 1 else None
    if values.get("do_resize") is False:
        edge, exact = None, None
    if name == "ConvNext":
        if edge is None or edge >= 384:  # from there on it scales to the size itself
            return ((edge, edge) if edge else exact), None, None
        return (edge, edge), int(edge / (part or 224 / 256)), None
    if name == "PoolFormer" and part is None and "crop_pct" not in values:
        part = 0.9
    if name == "PoolFormer" and part is not None and (edge or exact):
        edge, exact = int((edge or min(exact or (1,))) / part), None
    if name == "Levit" and edge:
        edge = int(256 / 224 * edge)
    if cut is not None and values.get("do_center_crop", True):
        return cut, edge, exact if exact != cut else None
    return (exact or ((edge, edge) if edge else None)), edge, None


def _sides(value: Any, shorter: bool) -> tuple[int | None, Pair | None]:
    """(length of the shorter side, height and width); what a plain number means depends on the processor."""
    number = _side(value)
    if number > 0:
        return (number, None) if shorter else (None, (number, number))
    if not isinstance(value, dict):
        return None, None
    edge, height, width = (_side(value.get(key)) for key in ("shortest_edge", "height", "width"))
    if height > 0 and width > 0:
        return None, (height, width)
    return (edge if edge > 0 else None), None


def _given(values: Mapping[str, Any]) -> tuple[Numbers | None, Numbers | None]:
    mean, std = (values.get(f"image_{key}", values.get(key)) for key in ("mean", "std"))
    return _floats(mean, -MAX_MEAN, MAX_MEAN), _floats(std, *STD)


def _numbers(values: Mapping[str, Any]) -> tuple[Numbers | None, Numbers | None]:
    """(mean, standard deviation) for images in 0..1, also where they are given for 0..255."""
    mean, std = _given(values)
    if mean and std and max(mean) > 1 and min(std) > 1:
        return tuple(n / 255 for n in mean), tuple(n / 255 for n in std)
    return mean, std


def _rescaled(values: Mapping[str, Any]) -> tuple[Numbers | None, Numbers | None]:
    """(mean, standard deviation) that do at once what a processor does in steps, on images in 0..1: rescaling, with an
    offset or not, and normalising, for some a second time."""
    if not kind(values) and not {"do_rescale", "rescale_factor", "do_normalize"} & values.keys():
        return _numbers(values)
    name, factor = kind(values), values.get("rescale_factor", 1 / 255)
    mean, std = _given(values)
    if name == "MobileViT" or values.get("do_normalize") is False:
        mean, std = (0.0,), (1.0,)
    if mean is None or std is None or type(factor) not in (int, float) or not 1e-6 <= factor <= 10:
        return mean, std
    scale, shift = 255 * float(factor), 0.0
    if values.get("do_rescale") is False:
        scale = 255.0
    elif values.get("rescale_offset") is True:
        shift = 1.0
    again: Sequence[float] = (1.0,)
    if name == "EfficientNet" and values.get("include_top", True):
        again = _given(values)[1] or again
    count = max(len(std), len(again))
    spread = [(std * count)[i] * ([*again] * count)[i] for i in range(count)]
    return tuple((m + shift) / scale for m in mean), tuple(s / scale for s in spread)


def _side(value: Any) -> int:
    return value if type(value) is int and value <= MAX_SIDE else -1


def _floats(value: Any, least: float, most: float) -> Numbers | None:
    if not isinstance(value, list) or not 1 <= len(value) <= 64:
        return None
    if not all(type(n) in (int, float) and least <= n <= most for n in value):
        return None
    return tuple(float(n) for n in value)
