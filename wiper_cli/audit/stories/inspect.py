"""What is said of a file alone: what it is, whether it was written well, and its weights in another definition."""

from collections.abc import Mapping
from dataclasses import replace

from formats import read_source, serve
from formats.safetensors.rebuild import rebuilt as moved
from formats.tensors import from_bytes
from wiper_cli.audit import answers, requests, results
from wiper_cli.audit.agreement import noise, require_agreement
from wiper_cli.audit.served import Served
from wiper_cli.audit.subject import SILENT, Notes, Reporter, open_file
from wiper_cli.verdict import KIND_NAMES

#: Largest difference of logits after saving, relative to the largest logit, by the dtype the file computes in.
TOLERANCE: Mapping[str, float] = {"F16": 2e-2, "BF16": 5e-2, "I8": 5e-2, "U8": 5e-2}


def inspect(request: requests.InspectRequest, report: Reporter = SILENT) -> answers.InspectAnswer:
    """What the file is; no images but noise."""
    notes = Notes()
    model = open_file(request, report, notes)
    with notes.stage("agreement"):
        require_agreement(model, Served(model, (0.0,), (1.0,), request.arch), noise(model))
    sentence = (
        f"{KIND_NAMES[model.kind]} file, {model.architecture.name} (by {model.architecture.how}) with {model.classes} "
        f"classes; it can be opened {'head-only' if model.head_only else 'in full'}."
    )
    return answers.InspectAnswer(model=results.described(model), sentence=sentence, **results.remarks(notes))


def check(request: requests.CheckRequest, report: Reporter = SILENT) -> answers.CheckAnswer:
    """Runs a written file through the runtime that serves it and compares its logits with the expected ones."""
    report("check the written file in its own runtime", 0, 0)
    expected = (request.expected[name] for name in ("inputs", "outputs"))
    x, outputs = (from_bytes(one.data, one.dtype, one.shape) for one in expected)
    source = replace(read_source(request.model), logits=request.logits)
    served = serve(source, request.arch)(x).float().flatten(1)
    if served.shape != outputs.shape or not bool(served.isfinite().all()):
        return answers.CheckAnswer(largest_logit_difference=None, agrees=False)
    largest = float((served - outputs).abs().max()) / max(1.0, float(outputs.abs().max()))
    tolerance = max((TOLERANCE.get(dtype, 1e-3) for dtype in request.dtypes), default=1e-3)
    return answers.CheckAnswer(largest_logit_difference=largest, agrees=largest <= tolerance)


def rebuild(request: requests.RebuildRequest, report: Reporter = SILENT) -> answers.RebuildAnswer:
    """The file's tensors in a definition that the user trusts; nothing of the file's graph is looked at."""
    report("move the tensors", 0, 0)
    found = moved(read_source(request.model), request.arch or "")
    return answers.RebuildAnswer(
        architecture=found.architecture, tensors=found.tensors, moved=found.moved, left=found.left
    )
