"""What to do next, from the report alone: a sentence, and a command that can be typed."""

import shlex
from pathlib import PurePath

from wiper_cli.reports import story
from wiper_cli.reports.plain import Report, plain


def following(report: Report) -> tuple[str, str]:
    """The sentence, and the command, which is empty where none helps."""
    model = str((report.get("model") or {}).get("path", "MODEL"))
    clean = str((report.get("clean") or {}).get("path", "DIR"))
    name = PurePath(model.replace("\\", "/"))
    worst = next((finding["rule"] for finding in story.findings(report)), None)
    explained = _command("rules", worst) if worst else ""
    outcome = story.outcome(report)
    if outcome == "purified":
        written = ((report["purification"] or {}).get("output") or {}).get("path", "OUT")
        said = "Deploy the written file in place of the original. Measure a trigger that you know: this is no proof."
        return said, _command("verify", model, written, "--clean", clean)
    if outcome == "rejected" and any(
        one["what"] == "the rest of the purification" for one in report["not_done"]
    ):
        return (
            "It ended early, and nothing was written: keep the original out of service, and let it end.",
            "",
        )
    if outcome == "rejected":
        said = "Nothing was written; keep the original out of service. More clean images, --effort thorough or another "
        return said + "--method may do better.", "wiper purify --help"
    if outcome == "malicious":
        return "Do not load the file; ask where it came from.", explained
    if outcome == "suspicious" and story.answered_for(report):
        return (
            "Somebody answers for every finding that would fail this; see that reason, owner and day hold.",
            "",
        )
    if outcome == "suspicious" and worst and worst.startswith("WIPER-G"):
        return "Do not deploy it. Training removes no branch: purifying does not help.", explained
    if outcome == "suspicious" and "://" in model:
        return "Do not deploy it: get the file and purify it, or take another model.", explained
    if outcome == "suspicious":
        output = name.with_name(f"{name.stem}-purified{name.suffix}") if name.name else PurePath("OUT")
        return "Do not deploy it: purify it, or take another model.", _command(
            "purify", model, "--clean", clean, "-o", str(output)
        )
    if outcome == "incomplete" and "wiper convert takes" in str(report["sentence"]):
        output = name.with_suffix(".safetensors") if name.name else PurePath("OUT")
        return "Scan what this writes.", _command("convert", model, "-o", str(output))
    if outcome == "incomplete":
        return "Nothing can be said of it yet; what is not done says why.", explained
    if outcome == "inspected":
        return "Nothing was looked for yet.", _command("scan", model, "--clean", clean)
    if outcome == "no_finding":
        said = "See that the accuracy is what you know of the model. If you know a trigger, measure it."
        return said, _command(
            "verify", model, "--clean", clean, "--trigger-image", "PNG", "--target", "CLASS"
        )
    return "", ""


def _command(*words: str) -> str:
    return "wiper " + plain(shlex.join(words), 600)
