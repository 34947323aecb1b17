"""Whether the network that was opened is the one that is served, and whether a model looks at who is asking.

Nothing that is measured afterwards holds of a file for which either fails, so this comes first. Answers are compared
as probabilities at the temperature of the reference's median margin (its highest logit less the next): the scale of
the logits does not matter, nor do classes that are never in the running, and an image that changes its class moves by
about a half or more.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from formats import Model, Stateful, Unsupported
from formats.open import SIZES
from wiper_cli.audit.served import Served
from wiper_cli.images.decode import Geometry
from wiper_cli.images.preprocessing import refusal
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict

#: Images that are asked about: as they are, with a square of one colour, and of noise.
IMAGES, SQUARES, NOISE = 32, 16, 16
#: Every so many of them is asked in each way.
EVERY = 4

#: Largest difference of a probability between honest answers. Measured over 10 architectures of torchvision,
#: untrained (the worst case: small margins), and 5 trained networks, in all three kinds, traced, scripted, frozen,
#: exported by both exporters, with free and fixed batches: 6e-5 in float32, 1e-3 in half precision, 0.04 with
#: dynamic quantisation, whose scales depend on the whole batch, and 0 with static. A GPU was not at hand.
TOLERANCE = 0.01
#: Of files that hold tensors of such a dtype.
COARSER: Mapping[str, float] = {"F16": 0.05, "BF16": 0.05, "I8": 0.25, "U8": 0.25}

#: Normalised float32 [N,C,H,W] → logits float32 [N,K] on the CPU, in the caller's gradient mode.
Run = Callable[[Tensor], Tensor]


def difference(answers: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """Largest difference of a probability, 0..1, of every row; logits [N,K], 1 where only one of the two is finite."""
    ours, theirs = (logits.double() for logits in (answers, reference))
    broken = ~ours.isfinite().all(1), ~theirs.isfinite().all(1)
    found = ((ours / temperature).softmax(1) - (theirs / temperature).softmax(1)).abs().amax(1)
    return torch.where(broken[0] | broken[1], (broken[0] != broken[1]).double(), found)


def margin(logits: Tensor) -> float:
    """The temperature: median of the highest logit less the next, never 0; logits [N,K]."""
    finite = logits[logits.isfinite().all(1)].double()
    if not len(finite):
        return 1.0
    top = finite.topk(2, 1).values
    return max(float((top[:, 0] - top[:, 1]).median()), 1e-9 * float(finite.abs().amax()), 1e-30)


def tolerance(model: Model) -> float:
    """Of :func:`difference` between honest answers of this model."""
    dtypes = {address.dtype for address in model.manifest.tensors.values()}
    return max(COARSER.get(dtype, TOLERANCE) for dtype in dtypes | {"F32"})


def _alone(run: Run, x: Tensor) -> Tensor:
    return torch.cat([run(one) for one in x.split(1)])


def _elsewhere(run: Run, x: Tensor) -> Tensor:
    """In batches of another size, in the reverse order: each image at another place, with other neighbours."""
    return torch.cat([run(part) for part in x.flip(0).split(3)]).flip(0)


@torch.enable_grad()
def _with_gradients(run: Run, x: Tensor) -> Tensor:
    return run(x.clone().requires_grad_())


@torch.enable_grad()
def _alone_with_gradients(run: Run, x: Tensor) -> Tensor:
    return _alone(run, x)


@torch.inference_mode()
def _in_inference_mode(run: Run, x: Tensor) -> Tensor:
    return run(x.clone())


#: Name → how; all are compared with one batch without gradients.
WAYS: Mapping[str, Callable[[Run, Tensor], Tensor]] = {
    "twice in a row": lambda run, x: run(x),
    "one image at a time": _alone,
    "in other batches and places": _elsewhere,
}
#: Where torch computes, too.
TORCH_WAYS: Mapping[str, Callable[[Run, Tensor], Tensor]] = {
    "with gradients": _with_gradients,
    "one image at a time, with gradients": _alone_with_gradients,
    "with channels last in memory": lambda run, x: run(x.contiguous(memory_format=torch.channels_last)),
}
#: Of deployments alone: what a network of ours remembers from it could not be differentiated afterwards.
SERVED_WAYS = {"in inference mode": _in_inference_mode}


def questions(images: Tensor) -> Tensor:
    """uint8 [N,C,H,W] → uint8 [n,C,H,W]: images spread over these, some with a square, and noise; mixed."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0, len(images) - 1, IMAGES).long().unique()
    plain = images[spread].cpu()
    _, channels, height, width = plain.shape
    squared = plain[:SQUARES].clone()
    for image in squared:
        side = int(torch.randint(1, max(2, min(height, width) // 4), (), generator=generator))
        top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
        colour = torch.randint(0, 2, (channels, 1, 1), generator=generator, dtype=torch.uint8) * 255
        image[:, top : top + side, left : left + side] = colour
    noise = torch.randint(0, 256, (NOISE, channels, height, width), generator=generator, dtype=torch.uint8)
    mixed = torch.cat([plain, squared, noise])
    return mixed[torch.randperm(len(mixed), generator=generator)]


def noise(model: Model) -> Tensor:
    """Few random images, float32 [n,C,H,W], of a size that the model takes."""
    spec, hint = model.input, model.preprocessing
    fixed = [(spec.height, spec.width)] if spec.height and spec.width else []
    sizes = fixed or [*([hint.size] if hint and hint.size else []), *((side, side) for side in SIZES)]
    for channels in (spec.channels,) if spec.channels else (3, 1):
        for height, width in sizes:
            if not refusal(model, Geometry(channels, height, width)):
                generator = torch.Generator().manual_seed(0)
                pixels = torch.randn(2 * EVERY, channels, height, width, generator=generator)
                return 128 + 64 * pixels if spec.whole else pixels
    raise Unsupported("The network takes none of the usual image sizes.")


def require_agreement(model: Model, served: Served, x: Tensor, called: str = "the model") -> None:
    """Raises :class:`Problem` with a finding unless ``model`` is what is ``served``, however it is asked about ``x``
    (normalised float32 [N,C,H,W]). ``called``: what sentences call the file."""
    few, opened = x[::EVERY].contiguous(), _opened(model)
    with torch.no_grad():
        reference, whole = served.run(few), served.run(x)
        asked = _Asked(few, reference, margin(whole), tolerance(model), called)
        in_torch = TORCH_WAYS if served.runtime.startswith("torch") else {}
        asked.each_way(
            f"in {served.runtime}", served.run, {**WAYS, **in_torch, **(SERVED_WAYS if in_torch else {})}
        )
        asked.same(f"in {served.runtime} in a larger batch", whole[::EVERY])
        _examined_is_served(opened(x), whole, asked, served.runtime)
        _all_are_numbers(whole, called)
        before = _state(model)
        asked.each_way("in the opened network", opened, {**WAYS, **(TORCH_WAYS if model.network else {})})
        if changed := [name for name, version in _state(model).items() if version != before[name]]:
            raise depends(
                f"{called[:1].upper()}{called[1:]} keeps something of what it was asked ({', '.join(changed[:3])}), so "
                "that its answers may depend on what came before.",
                {"changed": len(changed)},
            )


@dataclass(frozen=True)
class _Asked:
    """``reference``: the logits of ``x`` in one batch without gradients."""

    x: Tensor
    reference: Tensor
    temperature: float
    limit: float
    called: str

    def each_way(self, where: str, run: Run, ways: Mapping[str, Callable[[Run, Tensor], Tensor]]) -> None:
        for way, ask in ways.items():
            try:
                answers = ask(run, self.x)
            except Exception:  # a network that cannot be asked so gives nobody an answer
                continue
            self.same(f"{where} {way}", answers.detach().clone())

    def same(self, how: str, answers: Tensor) -> None:
        """Raises :class:`Problem` where ``answers`` are others than the reference."""
        largest = float(difference(answers, self.reference, self.temperature).max())
        if largest > self.limit:
            raise depends(
                f"The answers of {self.called} depend on how it is asked: {how}, the same images are answered "
                f"otherwise than in one batch without gradients (a probability differs by up to {largest:.2g}, "
                f"tolerance {self.limit:g}).",
                {"difference": largest, "threshold": self.limit, "images": len(self.x), "way": how},
            )


def _examined_is_served(answers: Tensor, reference: Tensor, asked: _Asked, runtime: str) -> None:
    apart = difference(answers, reference, asked.temperature)
    count, largest = int((apart > asked.limit).sum()), float(apart.max())
    if not count:
        return
    sentence = (
        f"What was opened of {asked.called} is not what {runtime} serves: they answer {count} of {len(apart)} images "
        f"otherwise (a probability differs by up to {largest:.2g}, tolerance {asked.limit:g}). Nothing else is said of "
        "it."
    )
    evidence = {"difference": largest, "threshold": asked.limit, "images": len(apart), "runtime": runtime}
    # Which of the two readings is at fault is not known, and what is served was not examined: incomplete.
    raise Problem(sentence, ExitCode.NO_VERDICT, [Finding("WIPER-A01", Severity.HIGH, sentence, evidence)])


def _all_are_numbers(logits: Tensor, called: str) -> None:
    """Raises :class:`Problem` with a finding where logits [N,K] are NaN or infinite: whoever takes the greatest answers
    one class for such images, and differences from them say nothing."""
    count = int((~logits.isfinite()).any(1).sum())
    if count:
        sentence = (
            f"A value can stop being a number for some image: {called} answers with NaN or infinity on {count} of "
            f"{len(logits)} images (clean ones, with squares, and of noise), so that nothing else is said of it."
        )
        found = Finding("WIPER-G12", Severity.HIGH, sentence, {"images": len(logits), "broken": count})
        raise Problem(sentence, ExitCode.NO_VERDICT, [found])


def depends(sentence: str, evidence: Mapping[str, Any]) -> Problem:
    """That a model looks at who is asking: no honest network was seen to, so that alone is suspicious."""
    found = Finding("WIPER-A02", Severity.HIGH, sentence, evidence)
    return Problem(sentence, ExitCode.NO_VERDICT, [found], Verdict.SUSPICIOUS)


@contextmanager
def stateless() -> Iterator[None]:
    """A network that is refused inside since it keeps state is one whose answers depend on who asks."""
    try:
        yield
    except Stateful as error:
        raise depends(str(error), {}) from error


def _opened(model: Model) -> Run:
    network, runtime = model.network, model.runtime
    if network is None:
        assert runtime is not None
        return lambda x: runtime.features_and_logits(x)[1].float()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return lambda x: network(x.to(device)).float().cpu()


def _state(model: Model) -> dict[str, int]:
    """How often each tensor of the opened network was written to."""
    network = model.network or torch.nn.Module()
    return {name: value._version for name, value in (*network.named_parameters(), *network.named_buffers())}
