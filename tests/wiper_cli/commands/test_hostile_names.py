"""Nothing that a name holds does anything on stdout or stderr, whichever command repeats it."""

import json
import re
import warnings
from pathlib import Path

import pytest
from inert import active
from sample_reports import HOSTILE, hostile

from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.main import _warn
from wiper_cli.verdict import ExitCode, Problem

DIGITS = example_folder()
#: As arguments can hold them: bytes but no NUL, those that are no UTF-8 as half a surrogate pair.
NAMES = {kind: re.sub("[\0\ud800-\udc7f\udd00-\udfff]", "", text) for kind, text in HOSTILE.items()}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "call",
    [
        ["inspect", "{}"],
        ["inspect", "--static", "no/{}"],
        ["scan", "m", "--clean", "{}"],
        ["scan", "m", "--device", "{}", "--show-settings"],
        ["inspect", "m", "-f", "json=no/{}"],
        ["inspect", "m", "-f", "{}"],
        ["inspect", "m", "--config", "{}"],
        ["inspect", "m", "--mean", "{}"],
        ["inspect", "m", "--resize", "{}"],
        ["inspect", "m", "--{}"],
        ["purify", "m", "--clean", ".", "-o", "no/{}"],
        ["purify", "m", "--clean", ".", "-o", "x", "--method", "{}"],
        ["scan", "m", "--clean", ".", "--detectors", "{}"],
        ["report", "{}"],
        ["rules", "{}"],
        ["triggers", "{}"],
        ["{}"],
    ],
    ids=" ".join,
)
def test_arguments(wiper, call, kind):
    code, out, err = wiper(*(part.replace("{}", NAMES[kind]) for part in call))
    assert code in (0, 2)
    assert (active(out), active(err)) == ([], [])
    assert len(out + err) < 100_000


@pytest.mark.parametrize(
    "kind", ["terminal", "bidi", "surrogates", "runner", "runner, anywhere", "lines", "markup"]
)
def test_files(wiper, tmp_path, kind):
    """A model, a clean folder and a settings file of such a name, as a hostile archive may unpack them."""
    path = Path(NAMES[kind].replace("/", "_"))
    path.write_bytes((DIGITS / "model.onnx").read_bytes())
    (tmp_path / "wiper.toml").write_text('seed = "x\\u001b[31m\\n::error::\\u202e"\n')
    for call in (["inspect", "--static", path], ["inspect", path, "--config", tmp_path / "wiper.toml"]):
        code, out, err = wiper(*call)
        assert code in (0, 2)
        assert (active(out), active(err)) == ([], [])


@pytest.mark.parametrize("kind", HOSTILE)
def test_sentences_of_the_child(wiper, child, few_digits, kind):
    child.answers[ScanRequest] = Problem(
        HOSTILE[kind].encode("utf-8", "replace").decode(), ExitCode.NO_VERDICT
    )
    code, out, err = wiper("scan", DIGITS / "model.onnx", "--clean", few_digits)
    assert code == 3
    assert (active(out), active(err)) == ([], [])
    assert len(out + err) < 20_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_warnings_of_libraries(capsys, monkeypatch, kind):
    monkeypatch.setattr(warnings, "showwarning", _warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(HOSTILE[kind], SyntaxWarning, stacklevel=1)
    out, err = capsys.readouterr()
    assert (out, active(err), err.count("\n")) == ("", [], 1)


def test_an_old_result_that_was_tampered_with(wiper, tmp_path):
    for kind, text in HOSTILE.items():
        path = tmp_path / "result.json"
        path.write_text(json.dumps(hostile("scan_finding", text[:1_000_000])))
        for name in ("text", "json", "markdown", "junit", "sarif", "html") if kind == "lines" else ("text",):
            code, out, err = wiper("report", path, "-f", name)
            assert (code, active(out), err) == (0, [], "")
