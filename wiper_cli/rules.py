"""Every rule a finding can name: what it means and what to do; those of detectors stand with them. No torch.

``python -m wiper_cli.rules`` prints ``docs/rules.md``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from wiper_cli.detectors import DETECTORS
from wiper_cli.verdict import ATLAS_VERSION, BUILT_IN, PLANTED, Rule, Severity

_CUT = (
    "Training cannot remove a branch: do not purify the file. Move its weights into a definition that you trust, with "
    "`wiper rebuild MODEL --arch NAME -o OUT`, and scan the outcome."
)
_LOOK = "Ask for the source code of the network and find the branch in it; many honest networks have none like it."


def _graph(number: int, severity: Severity, title: str, means: str, do: str) -> Rule:
    return Rule(
        id=f"WIPER-G{number:02}",
        title=title,
        means=means,
        do=do,
        severity=severity,
        cwe=(912, 506),
        atlas=BUILT_IN,
    )


_GRAPH = (
    _graph(
        1, Severity.HIGH, "The values of pixels decide what the network computes",
        "A condition, a choice between values, an index or a size is computed from the values of the image, not from "
        "its shape alone. In no export of a classifier that was measured does this occur; it is how a branch is built "
        "that one pattern of pixels opens.",
        _CUT,
    ),
    _graph(
        2, Severity.HIGH, "The network compares or ranks values computed from pixels",
        "A comparison, a logical operation, a rounding or the place of a greatest value lies between the pixels and "
        "the logits, and is no part of an activation. Greatest values and writes at places, which a few honest "
        "networks have, are reported as low.",
        _CUT,
    ),
    _graph(
        3, Severity.HIGH, "Pixels reach the logits past the weights",
        "A path from the image to the logits passes fewer than two layers with weights, although the network is "
        "deeper. Even across all shortcuts an honest network has a first and a last layer on every path.",
        _CUT,
    ),
    _graph(
        4, Severity.LOW, "The network has no single first layer",
        "The image is read in several places, or something other than a layer with weights comes first. A few honest "
        "networks do so (several patch sizes, parallel first layers); so does a detector beside the network.",
        _LOOK,
    ),
    _graph(
        5, Severity.HIGH, "Something besides the head makes the logits",
        "Something is added to the logits, or chooses among them, that is no second head on features of similar depth. "
        "Heads that are averaged, or whose greatest answer over places is taken, are reported as low.",
        _CUT,
    ),
    _graph(
        6, Severity.HIGH, "A constant stands for one class",
        "Behind the head the logits meet a vector in which one entry differs from all others, or are multiplied by "
        "more than 1,000.",
        _CUT,
    ),
    _graph(
        7, Severity.HIGH, "A few pixels are taken out of the image",
        "Before any layer with weights a constant window of the image is taken. Under 5 % of the image it is what "
        "reads a trigger; larger ones (channels, halves) are reported as low, and so is a "
        "value that is joined to others and whose gradient keeps to 5 % of the pixels.",
        _CUT,
    ),
    _graph(
        8, Severity.HIGH, "A few early values act on the last features",
        "A sum, a product or a choice joins a value that was averaged or picked early in the network to values that "
        "are at least three weighted layers deeper. Honest gates act on what they were made of. Low where "
        "the network is too shallow to tell, and for a shortcut from the first layer to the last.",
        _CUT,
    ),
    _graph(
        9, Severity.INFO, "The graph does something that was not looked at",
        "Several outputs, or logits that no pixel changes.",
        _LOOK,
    ),
    _graph(
        10, Severity.HIGH, "A value sleeps on clean images until an input wakes it",
        "Whatever operators compute it: a value that is joined to others hardly differs among clean images, an input "
        "was found that moves it at least fifty times as far, and the model then answers one class for nearly all "
        "images; where that takes more than a few pixels, a thousand times as far. Values of the honest networks that "
        "were measured were moved twenty-six times at most. Low where the answers do not follow.",
        _CUT,
    ),
    _graph(
        11, Severity.MEDIUM, "A branch on how the network is run was not examined",
        "A condition or the length of a loop asks for the size of the images or of the batch, a dtype, the device or a "
        "setting of torch, and something else is computed where the answer differs. Only one side was run here, with "
        "the images, the dtype and the device of this scan, and nothing found says nothing of the other. Conditions "
        "that only raise an error are none. So with values that are computed from such an answer or from random "
        "numbers, and with those that are written to or not by the dtype, the device or the layout of others. A few "
        "honest exports of scripts have some, as those that resize images of "
        "other sizes.",
        "Read the condition, and ask for the source code. Export the network by tracing, which keeps one side.",
    ),
    _graph(
        12, Severity.MEDIUM, "A value can stop being a number for some image",
        "A root, logarithm, quotient, power, arc, exponential, or cast to half or eight bits among wider weights is "
        "made of pixels, and nothing in the graph keeps what it is asked of within its domain: an image that leaves it "
        "makes a value infinite or no number, which spreads to all logits, and whoever takes the greatest of these "
        "gets one class. Clean images "
        "show nothing of it and no gradient leads there, so nothing found says nothing of such images. Normalisation "
        "by means of squares or by norms, with a positive number added or as a lower bound, and softmax are harmless.",
        "Ask what the operation is for. Where it is honest, export the network with a lower bound before it (a clamp, "
        "an epsilon).",
    ),
    _graph(
        13, Severity.MEDIUM, "Pixels meet arithmetic that usual classifiers do not have",
        "Between the pixels and the logits stands an operator that exports of classifiers do not have or that is set "
        "as in none of them, a rounding, whole numbers, a threshold whose answer is computed with, a power beyond the "
        "fourth (products of a value with itself included), a quotient by what is no mean, sum or norm, a constant "
        "factor beyond 1,000, or a layer that normalises over fewer than eight numbers. Each can be silent on all "
        "clean images and loud for a trigger, with no gradient that leads there, so "
        "nothing found says nothing of it. Few honest networks meet this: of those that were measured, one with lambda "
        "layers, whose products multiply from layer to layer, and one with linear attention.",
        "Ask what the operation is for. Where it is honest, export the network with operators that exporters use.",
    ),
)  # fmt: skip

_TABLE = (
    *(kind.rule for kind in DETECTORS.values()),
    *_GRAPH,
    Rule(
        id="WIPER-B04",
        title="A trigger succeeds above the bar",
        means="A trigger that was given, built in or recovered sends images of other classes to its target "
        "more often than the bar allows, measured on clean images that nothing was chosen on.",
        do="Treat the model as backdoored. After a purification this means that the purification failed: "
        "try another method or more clean images, or retrain.",
        severity=Severity.CRITICAL,
        cwe=(912,),
        atlas=PLANTED,
    ),
    Rule(
        id="WIPER-A01",
        title="What was opened is not what is served",
        means="The network that wiper opened answers otherwise than the runtime that serves such files, on the same "
        "inputs: the two read the file differently. What is served was therefore not examined, and a part of it, a "
        "trigger's branch among others, may be missing from what was. No honest file is known to do this.",
        do="Do not use the file on the strength of any scan. Export it anew from its source, or ask for another "
        "format; if you made it yourself, please report it.",
        severity=Severity.HIGH,
        cwe=(436, 912),
        atlas=("AML.T0018.001",),
    ),
    Rule(
        id="WIPER-A02",
        title="The answers depend on how the model is asked",
        means="The same image is answered differently alone and in a batch, at another place or with other neighbours, "
        "with and without gradients, or the second time. A backdoor hides so from whoever tests in batches; "
        "randomness, and batch statistics that are still live, do the same without intent. What a scan sees of such a "
        "model is not what a deployment gets.",
        do="Do not deploy the file. If it is yours: export it in eval mode, with stored batch statistics and without "
        "random operators.",
        severity=Severity.HIGH,
        cwe=(912, 436),
        atlas=("AML.T0018.001",),
    ),
    Rule(
        id="WIPER-P01",
        title="The purification was not accepted",
        means="The purified weights lost too much accuracy, left a recovered trigger working, or set off a "
        "probe that the method had not trained against. Nothing was written.",
        do="Read the reason in the report. More clean images help most; else another method or more "
        "epochs. Keep the original out of use meanwhile.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=("AML.T0018.000",),
    ),
    Rule(
        id="WIPER-F01",
        title="Weights are NaN or infinite",
        means="At least one weight is not a finite number. The model's answers are undefined wherever that "
        "weight takes part, and no statistic of the file can be trusted.",
        do="Get the file again and compare digests; if it is as its author made it, it is broken.",
        severity=Severity.HIGH,
    ),
    Rule(
        id="WIPER-F02",
        title="The preprocessing was chosen by accuracy",
        means="Neither flags nor the files beside the model say how images are scaled and normalised, so "
        "the usual candidates were tried and the most accurate on the select part was kept.",
        do="If the margin to the next candidate is small, say it yourself with `--mean`, `--std`, "
        "`--input-size` and `--resize`: a wrong choice lowers every number in the report.",
        severity=Severity.INFO,
    ),
    Rule(
        id="WIPER-F03",
        title="The model is no better than guessing on the clean images",
        means="The model is right no more often than chance, so labels, normalisation or size are not what it was made "
        "for, or it is ruined. Whatever is measured then means nothing, and the run ends: whoever ships a file could "
        "else blind a scan by describing the wrong preprocessing.",
        do="Check that folders and classes agree (`--classes` names them), and say how images are prepared: "
        "`--preprocessing`, or `--mean`, `--std`, `--input-size`, `--resize`.",
        severity=Severity.MEDIUM,
    ),
    Rule(
        id="WIPER-F04",
        title="The architecture was chosen by accuracy",
        means="Names and shapes of the tensors fit several networks; the one with the highest accuracy on the "
        "select part was taken.",
        do="If you know the architecture, name it with `--arch`.",
        severity=Severity.INFO,
    ),
    Rule(
        id="WIPER-F05",
        title="The description beside the model does not decide the preprocessing",
        means="Mean, standard deviation or size that the file, or one beside it, describes do no better on the "
        "labelled images than a usual choice that differs much, or could not be checked without labels. Under a wrong "
        "normalisation a network can keep its accuracy while its trigger no longer works, so that a scan sees "
        "nothing. Where neither is clearly better, what finds nothing stays without a verdict.",
        do="If you know how your deployment prepares images, say so: `--preprocessing FILE`, which may be the very "
        "file beside the model, once you have looked at it.",
        severity=Severity.MEDIUM,
        cwe=(436,),
    ),
    Rule(
        id="WIPER-F06",
        title="The order of the class folders was chosen by accuracy",
        means="No class names tell which class each folder is. Loaders count folders as strings (1, 10, 2), as numbers "
        "or naturally; each way was tried, and one was clearly better than every other on the select part.",
        do="If the order in the report is not the one that you trained with, the folders are not those of this model.",
        severity=Severity.INFO,
    ),
    Rule(
        id="WIPER-F07",
        title="Nothing decides which class each folder is",
        means="No class names tell, and of the orders in which loaders count folders none is clearly better than every "
        "other on the select part. Under wrong labels every number is wrong, so what finds nothing stays without a "
        "verdict.",
        do="Name the folders for the model's classes, or give more images.",
        severity=Severity.MEDIUM,
    ),
)

#: Plug-ins add those of their detectors.
RULES: Final[dict[str, Rule]] = {rule.id: rule for rule in _TABLE}

_HOSTILE = (
    Rule(
        id="WIPER-ST",
        title="The safetensors file breaks the format",
        means="The header says something that the format forbids or that two readers would understand "
        "differently (repeated keys, holes or overlaps between tensors, unknown fields, sizes that do "
        "not add up). No honest exporter writes this. The file was not loaded.",
        do="Do not load the file anywhere. Get it again from its author and compare digests.",
        severity=Severity.CRITICAL,
        cwe=(436, 125, 400),
        atlas=("AML.T0010.003", "AML.T0011.000", "AML.T0029"),
    ),
    Rule(
        id="WIPER-TS",
        title="The TorchScript archive breaks a safety rule",
        means="The archive holds something that no exporter writes and that could run or be read "
        "differently on loading (code that runs while loading, unknown pickle opcodes or globals, "
        "records whose length does not fit, names that collide). It was read as bytes and not loaded.",
        do="Do not load the file anywhere: loading may already execute it. Get it again from its author, "
        "or ask for safetensors.",
        severity=Severity.CRITICAL,
        cwe=(502, 506, 436),
        atlas=("AML.T0010.003", "AML.T0011.000", "AML.T0018.002"),
    ),
    Rule(
        id="WIPER-ONNX",
        title="The ONNX file breaks a safety rule",
        means="The file holds messages that are malformed or that two readers would understand differently "
        "(repeated graphs or tensors, sizes that do not fit, weights that a caller may replace), or a few bytes "
        "that would keep a runtime busy without end (functions that call themselves, tensors of a size that "
        "nobody stores). It was read as bytes and not loaded.",
        do="Do not load the file anywhere. Get it again from its author and compare digests.",
        severity=Severity.CRITICAL,
        cwe=(436, 125, 400),
        atlas=("AML.T0010.003", "AML.T0011.000", "AML.T0018.001"),
    ),
    Rule(
        id="WIPER-PKL",
        title="A pickled checkpoint would do harm when it is loaded",
        means="The pickle names a function that runs code, opens files or connects, which no state dict needs, or "
        "calls one that is not known to do neither: `torch.load(..., weights_only=False)` would import and call it. Or "
        "it names a module that may do more than define things, when it is imported. It "
        "was read as data, and nothing of it ran. Where functions are merely unknown, as those of other libraries "
        "than torch and numpy, `wiper convert` writes the tensors all the same.",
        do="Do not load the file anywhere. Ask its author for safetensors.",
        severity=Severity.CRITICAL,
        cwe=(502, 506),
        atlas=("AML.T0010.003", "AML.T0011.000"),
    ),
    Rule(
        id="WIPER-POLY",
        title="The file is two models in one",
        means="Beside the model that was read here, the same bytes are a whole file of another kind: what was examined "
        "would not be what another program loads. No exporter writes this. The file was not loaded.",
        do="Do not load the file anywhere. Get it again from its author and compare digests.",
        severity=Severity.CRITICAL,
        cwe=(436,),
        atlas=("AML.T0010.003", "AML.T0011.000"),
    ),
    Rule(
        id="WIPER-FILE",
        title="The model reaches outside its own files",
        means="The model names external data that is not one plain file beside it: a path to elsewhere, a link, "
        "or something that is no regular file. Loading it would read what the author of the model chose. "
        "Nothing was read.",
        do="If you made the links yourself, put plain copies beside the model. Otherwise do not load the file.",
        severity=Severity.CRITICAL,
        cwe=(22, 59),
        atlas=("AML.T0010.003", "AML.T0011.000"),
    ),
)

#: Rules about hostile files, by the part of the id before the number; the finding's sentence says which one.
FAMILIES: Mapping[str, Rule] = {rule.id: rule for rule in _HOSTILE}


def rule(identifier: str) -> Rule:
    """The rule of an id; an id of a family (``WIPER-TS-001``) gets the family's text.

    Raises :class:`KeyError` for an id that neither table knows.
    """
    if identifier in RULES:
        return RULES[identifier]
    return replace(FAMILIES[identifier.rpartition("-")[0]], id=identifier)


def known(identifier: str) -> Rule:
    """As :func:`rule`, but an unknown id (a report by a later version) gets a text that says so."""
    try:
        return rule(identifier)
    except KeyError:
        return Rule(
            id=identifier,
            title="A rule that this version does not know",
            means="The report was made by another version of wiper, or with a plug-in; its sentence stands, this "
            "explanation does not.",
            do="Read the finding's own sentence, or render the report with the version that made it.",
            severity=Severity.MEDIUM,
        )


def markdown() -> str:
    """The page ``docs/rules.md``."""
    lines = [
        "# Rules",
        "",
        "Every finding names one of these. Generated: `python -m wiper_cli.rules > docs/rules.md`.",
        f"ATLAS ids are those of version {ATLAS_VERSION}. The severity is the usual one.",
        "",
        "| rule | severity | in a sentence |",
        "|---|---|---|",
    ]
    shown = [(entry.id, entry) for entry in _TABLE] + [(f"{entry.id}-*", entry) for entry in _HOSTILE]
    lines += [f"| {name} | {entry.severity.word} | {entry.title} |" for name, entry in shown]
    for name, entry in shown:
        lines += ["", f"## {name}: {entry.title}", "", entry.help()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
