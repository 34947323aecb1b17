"""A fleet: a manifest of models, addresses, and the folder of reports, which a run that was killed goes on with."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from inert import active

from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.fleet import output_folder
from wiper_cli.commands.fleet.batch import Item
from wiper_cli.commands.shared import remote
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.remote import Address, place_of, read_at
from wiper_cli.reports.fleet import page, usable
from wiper_cli.verdict import Finding, Severity, Verdict

DIGITS = example_folder()
QUICK = ("--input-size", "32", "--mean", "0", "--std", "1", "--effort", "quick", "--device", "cpu")


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models").mkdir()
    return [shutil.copy(DIGITS / "model.onnx", tmp_path / "models" / f"{name}.onnx") for name in "abc"]


def requests(child):
    return [one for one in child.requests if isinstance(one, ScanRequest)]


def test_each_model_is_examined_as_its_line_says(wiper, child, scanned, few_digits, models, tmp_path):
    (tmp_path / "images").symlink_to(few_digits)
    (tmp_path / "fleet.toml").write_text(
        'clean = "images"\neffort = "quick"\nmean = [0.5]\n'
        '[[model]]\nmodel = "models/a.onnx"\n'
        '[[model]]\nmodel = "models/b.onnx"\neffort = "normal"\nfail-on = "low"\ninput-size = "24x32"\n'
        'mean = "0.1"\narch = "nets.py:make"\ndetectors = "max-margin"\n'
    )
    low = (Finding("WIPER-F02", Severity.LOW, "Low."),)
    child.answers[ScanRequest] = scanned(findings=low)
    code, out, err = wiper("scan", "--fleet", tmp_path / "fleet.toml", "--seed", "7", "-f", "json")
    assert code == 1, err
    assert [one["exit_code"] for one in json.loads(out)["reports"]] == [0, 1]
    first, second = requests(child)
    assert (first.effort, first.mean, first.clean, first.seed) == ("quick", (0.5,), tmp_path / "images", 7)
    assert (second.effort, second.mean, second.input_size) == ("normal", (0.1,), (24, 32))
    assert (second.arch, second.detectors) == (str(tmp_path / "nets.py:make"), ("max-margin",))


def test_a_table_of_values_says_the_same(wiper, child, scanned, few_digits, models, tmp_path):
    child.answers[ScanRequest] = scanned()
    (tmp_path / "fleet.csv").write_text(
        f"\ufeffmodel,clean,effort,mean\nmodels/a.onnx,{few_digits},quick,\n"
        f'models,{few_digits},thorough,"0.1,0.2,0.3"\n',
        encoding="utf-8",
    )
    code, out, err = wiper(
        "scan", "--fleet", tmp_path / "fleet.csv", models[2], "--clean", few_digits, "-f", "json"
    )
    assert code == 0, err
    names = [Path(one["model"]["path"]).name for one in json.loads(out)["reports"]]
    assert names == ["c.onnx", "a.onnx", "a.onnx", "b.onnx", "c.onnx"]
    assert [(one.effort, one.mean) for one in requests(child)] == [
        ("auto", None), ("quick", None), *[("thorough", (0.1, 0.2, 0.3))] * 3,
    ]  # fmt: skip


BAD = {
    "[[model]]\nmodel = 'a'\neffrt = 'quick'\n": "line 1: 'effrt' is no key; the nearest is 'effort'",
    "\n\n[[model]]\nmodel = 'a'\n[[model]]\nmodel = 'b'\neffort = 'fast'\n": "line 5: Invalid value",
    "[[model]]\nclean = 'x'\n": "line 1: it names no model",
    "[[model]]\nmodel = 3\n": "line 1: it names no model",
    "[[model]]\nmodel = 'a'\nclean = 7\n": "line 1: clean must be a path on this machine",
    "[[model]]\nmodel = 'a'\nclean = 's3://bucket/x'\n": "clean must be a path on this machine",
    "[[model]]\nmodel = 'a'\nclean = 'nowhere'\n": "nowhere does not exist",
    "[[model]]\nmodel = 'ftp://host/a'\n": "line 1: ftp://host/a is at no address that can be read",
    "[[model]]\nmodel = 's3://b/a::zip://x'\n": "is at no address that can be read",
    "[[model]]\nmodel = 'a'\nmean = [nan]\n": "line 1: Invalid value",
    "[[model]]\nmodel = 'a'\nisolation = 'off'\n": "'isolation' is no key",
    "[[model]]\nmodel = 'http://['\n": "line 1: http://… is no address",
    "[[model]]\nmodel = 'file:///tmp/%00'\n": "line 1: An address has a zero byte",
    "[[model]]\nmodel = 'a'\nseed = [1]\n": "line 1: seed cannot be [1]",
    "[[model]]\nmodel = 'a'\nseed = true\n": "line 1: seed cannot be True",
    "[[model]]\nmodel = 'a'\nseed = 1.5\n": "line 1: seed cannot be 1.5",
    "[[model]]\nmodel = 'a'\ntimeout = 1979-05-27\n": "line 1: timeout cannot be",
    f"[[model]]\nmodel = 'a'\ntimeout = {'9' * 400}\n": "more than 64 bits",
    "[[model]]\nmodel = 'a'\nmean = [[1], [2]]\n": "line 1: mean cannot be",
    "[[model]]\nmodel = 'a'\narch = ['x']\n": "line 1: arch cannot be",
    "[[model]]\nmodel = 'a'\nclasses = \"a\\u0000b\"\n": "line 1: classes cannot be",
    "model = 'a'\n": "models stand below [[model]]",
    "clean = 'x'\n": "names no model",
    "[[model]\n": "is not valid TOML",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_line_is_named_before_any_work(wiper, child, few_digits, tmp_path, text, words):
    (tmp_path / "fleet.toml").write_text(text)
    code, out, err = wiper("scan", "--fleet", tmp_path / "fleet.toml", "--clean", few_digits)
    assert (code, out, child.requests) == (2, "", [])
    assert words in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model,clean\na,b,c\n", "line 2: it has not 2 values"),
        ("model,model\na,b\n", "line 1: a column stands twice"),
        ("model,efort\na.onnx,quick\n", "line 2: 'efort' is no key; the nearest is 'effort'"),
        ('model\n"a\n', "is not valid CSV"),
        ("model\n\n", "names no model"),
    ],
)
def test_a_bad_table_is_refused(wiper, few_digits, tmp_path, text, words):
    (tmp_path / "fleet.csv").write_text(text)
    code, _, err = wiper("scan", "--fleet", tmp_path / "fleet.csv", "--clean", few_digits)
    assert code == 2
    assert words in err


def test_nothing_to_scan_is_a_wrong_call(wiper):
    code, _, err = wiper("scan", "--clean", ".")
    assert code == 2
    assert "Missing argument 'MODEL…', or --fleet FILE" in err


@pytest.fixture
def memory(monkeypatch):
    """Bytes at ``memory://`` addresses, by fsspec."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(remote, "SCHEMES", {**remote.SCHEMES, "memory": "nothing"})
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_a_model_at_an_address_is_read_whole_with_what_describes_it(memory, wiper, child, few_digits, models):
    memory.pipe("/hub/net/model.onnx", (DIGITS / "model.onnx").read_bytes())
    memory.pipe("/hub/net/config.json", b"{}")
    source = read_at(place_of("memory://hub/net"), 1 << 30)
    assert (source.name, source.data) == ("model.onnx", (DIGITS / "model.onnx").read_bytes())
    assert source.sidecars == {"config.json": b"{}"}
    code, out, err = wiper("inspect", "memory://hub/net/model.onnx", models[0], "-f", "json")
    assert code == 0, err
    far, near = json.loads(out)["reports"]
    assert far["model"]["path"] == "memory://hub/net/model.onnx"
    assert far["model"]["sha256"] == near["model"]["sha256"]


def test_what_an_address_gives_is_bounded_and_a_failure_is_one_sentence(memory, wiper, monkeypatch):
    memory.pipe("/big", b"x" * 5000)
    with pytest.raises(Exception, match="memory://big has more than 100 bytes"):
        read_at(place_of("memory://big"), 100)
    code, out, err = wiper("inspect", "memory://none", "memory://big", "-f", "json")
    assert code == 2
    assert [one["exit_code"] for one in json.loads(out)["reports"]] == [2, 2]
    assert "memory://none: memory://none does not exist." in err

    def refuse(*_, **__):
        raise RuntimeError("403 Forbidden\nfor url")

    monkeypatch.setattr(type(memory), "open", refuse)
    code, _, err = wiper("inspect", "memory://big")
    assert code == 2
    assert "memory://big cannot be read (RuntimeError): 403 Forbidden" in err


def test_external_data_at_an_address_is_a_plain_name_beside_the_model(memory):
    memory.pipe("/net/model.onnx", b"m")
    memory.pipe("/net/w.bin", b"weights")
    place = place_of("memory://net")
    assert remote.external_at(place, ["w.bin"], 10) == {"w.bin": b"weights"}
    with pytest.raises(Exception, match="no plain name"):
        remote.external_at(place, ["../net/w.bin"], 10)
    with pytest.raises(Exception, match="more than 3 bytes"):
        remote.external_at(place, ["w.bin"], 3)


def test_secrets_in_an_address_are_in_no_report():
    found = place_of("https://user:word@host/a/model.onnx?sig=secret#x")
    assert isinstance(found, Address)
    assert (str(found), found.name) == ("https://host/a/model.onnx", "model.onnx")
    assert place_of("file:///tmp/a%20b.onnx") == Path("/tmp/a b.onnx")


def test_without_the_packages_an_address_is_one_sentence(wiper, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    code, _, err = wiper("inspect", "s3://bucket/model.onnx")
    assert code == 2
    assert "s3://bucket/model.onnx cannot be read without packages for it: pip install fsspec s3fs" in err


def index(folder):
    return json.loads((folder / "index.json").read_text())


def test_each_report_stands_before_the_next_model_begins(
    wiper, monkeypatch, scanned, few_digits, models, tmp_path
):
    from wiper_cli.worker import gate

    standing, out = [], tmp_path / "out"

    def ask(job, *_):
        if isinstance(job, gate.JOBS):
            return gate.run(job)
        standing.append(len(list(out.glob("*/report.json"))))
        return scanned()

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    code, said, err = wiper("scan", tmp_path / "models", "--clean", few_digits, "--output-dir", out)
    assert (code, said, standing) == (0, "", [0, 1, 2])
    assert [Path(one["path"]).name for one in index(out)["models"]] == ["a.onnx", "b.onnx", "c.onnx"]
    for one in index(out)["models"]:
        assert json.loads((out / one["folder"] / "report.json").read_text())["model"]["path"] == one["path"]
        assert f'href="{one["folder"]}/report.html"' in (out / "index.html").read_text()
    assert f"{out}/index.html has 3 of 3 models." in err


def test_the_next_run_says_what_changed(wiper, child, scanned, few_digits, models, tmp_path):
    out = tmp_path / "out"
    found = (Finding("WIPER-B03", Severity.CRITICAL, "A square.", place={"class": 3}),)

    def run(*names, **answer):
        child.answers[ScanRequest] = scanned(**answer)
        return wiper("scan", *names, "--clean", few_digits, "--output-dir", out)[0]

    assert run(*models[:2]) == 0
    assert index(out)["since"] is None
    first = index(out)["finished"]
    shutil.copy(DIGITS / "model.safetensors", models[0])
    assert run(*models[::2], verdict=Verdict.SUSPICIOUS, findings=found) == 1
    after = index(out)
    assert (after["since"], [Path(path).name for path in after["gone"]]) == (first, ["b.onnx"])
    assert [one["change"] for one in after["models"]] == ["was no finding, other bytes", "new"]
    assert [one["target"] for one in after["models"]] == ["class 3", "class 3"]
    report = json.loads((out / after["models"][0]["folder"] / "report.json").read_text())
    assert [one["rule"] for one in report["changes"]["new"]] == ["WIPER-B03"]


def test_what_is_no_folder_of_ours_is_left_alone(wiper, few_digits, models, tmp_path):
    (tmp_path / "out").mkdir()
    for text in ("{}", "[", '{"schema": "wiper-fleet/1", "models": 3}'):
        (tmp_path / "out/index.json").write_text(text)
        code, _, err = wiper("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
        assert code == 2
        assert "is no index of ours" in err
        assert (tmp_path / "out/index.json").read_text() == text
    code, _, err = wiper("scan", models[0], "--clean", few_digits, "--output-dir", models[1])
    assert code == 2
    assert "cannot be a folder of reports" in err


def test_no_two_models_have_one_folder_however_they_are_called(tmp_path):
    """Two names whose digests begin with the same 40 bits are found in a second; their folder was one."""

    def digest(path):
        return hashlib.sha256(f"{path}\0{1}".encode()).digest()[:5]

    def name(number):
        return f"m{bin(number)[2:].replace('0', '!').replace('1', '@')}.onnx"

    seen = {}
    pair = next(
        (seen[key], number)
        for number in range(1, 1 << 23)
        if seen.setdefault(key := digest(f"{tmp_path}/{name(number)}"), number) != number
    )
    named = output_folder._named([Item(tmp_path / name(number), None) for number in pair])
    assert len({one.folder for one in named}) == 2
    assert all(re.fullmatch(r"m-[0-9a-f]{32}", one.folder) for one in named)


def test_a_page_of_somebody_else_is_not_replaced(wiper, few_digits, models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.html").write_text("precious")
    code, _, err = wiper("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
    assert code == 2
    assert "index.html is no page of ours" in err
    assert (tmp_path / "out/index.html").read_text() == "precious"


@pytest.mark.parametrize("name", ["index.json", "index.html", "OWN", "OWN/report.json", "OWN/report.html"])
@pytest.mark.parametrize("target", ["precious", "nowhere", "round"])
def test_no_link_in_the_folder_of_reports_leads_out(
    wiper, child, scanned, few_digits, models, tmp_path, name, target
):
    child.answers[ScanRequest] = scanned()
    arguments = ("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
    assert wiper(*arguments)[0] == 0
    (own,) = (one.name for one in (tmp_path / "out").iterdir() if one.is_dir())
    (tmp_path / "precious").mkdir() if name == "OWN" else (tmp_path / "precious").write_text("precious")
    link = tmp_path / "out" / name.replace("OWN", own)
    shutil.rmtree(link) if name == "OWN" else link.unlink()
    link.symlink_to(link if target == "round" else tmp_path / target)
    code, _, err = wiper(*arguments)
    assert code == 2
    assert f"{link} is a link; remove it" in err
    assert not (tmp_path / "nowhere").exists()
    place = tmp_path / "precious"
    assert [*place.iterdir()] == [] if name == "OWN" else place.read_text() == "precious"


def test_what_stands_in_the_way_of_a_report_is_one_sentence_before_any_work(
    wiper, child, scanned, few_digits, models, tmp_path
):
    child.answers[ScanRequest] = scanned()
    arguments = ("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
    wiper(*arguments)
    (own,) = (one for one in (tmp_path / "out").iterdir() if one.is_dir())
    shutil.rmtree(own)
    own.write_text("mine")
    child.requests.clear()
    code, _, err = wiper(*arguments)
    assert (code, child.requests) == (2, [])
    assert f"{own} is no folder" in err
    assert own.read_text() == "mine"


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" * 400])
def test_an_index_with_numbers_that_are_none_is_not_ours(wiper, few_digits, models, tmp_path, value):
    (tmp_path / "out").mkdir()
    text = json.dumps(json_index(models=[rows(accuracy=0.5)])).replace("0.5", value)
    (tmp_path / "out/index.json").write_text(text)
    code, _, err = wiper("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
    assert code == 2
    assert "is no index of ours" in err


def test_an_earlier_report_without_a_model_is_written_anew(
    wiper, child, scanned, few_digits, models, tmp_path
):
    child.answers[ScanRequest] = scanned()
    arguments = ("scan", models[0], "--clean", few_digits, "--output-dir", tmp_path / "out")
    wiper(*arguments)
    (report,) = (tmp_path / "out").glob("*/report.json")
    report.write_text('{"schema": "wiper-reports/1", "reports": [], "exit_code": 0}')
    code, _, err = wiper(*arguments)
    assert code == 0, err
    assert json.loads(report.read_text())["verdict"] == "no_finding"


def test_names_that_are_no_text_are_escaped_in_the_index(wiper, few_digits, tmp_path):
    (tmp_path / "models").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "models") + b"/\xff.onnx")).write_bytes(b"no model")
    seen = []
    written = output_folder.write_whole

    def write(path, data):
        seen.append(data)
        written(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_folder, "write_whole", write)
        wiper("scan", tmp_path / "models", "--clean", few_digits, "--output-dir", tmp_path / "out")
    assert len(seen) >= 6
    assert not [data for data in seen if b"\\udcff" in data]


def json_index(**changes):
    return {
        "schema": "wiper-fleet/1", "began": "2026-01-01", "finished": "2026-01-02", "since": None,
        "models": [], "waiting": [], "gone": [], "before": [],
    } | changes  # fmt: skip


def rows(**changes):
    row = {
        "path": "a.onnx", "folder": "a-1", "verdict": "no_finding", "sentence": "Nothing.", "exit_code": 0,
        "created": "2026-01-01", "target": None, "accuracy": 0.9, "effort": "quick", "seconds": 3.0,
        "digest": "ab" * 32, "taken": False, "findings": 0, "suppressed": 0, "change": None,
    }  # fmt: skip
    return row | changes


def fleet(*models, **changes):
    found = json_index(models=list(models), **changes)
    assert usable(found)
    return page(found)


def test_the_page_is_inert_whatever_models_are_called():
    evil = "<script>alert(1)</script>\x1b[31m\u202e\n::error::x ##[error]y \" onclick='z'"
    text = fleet(
        rows(path=evil, sentence=evil, target=evil, effort=evil, digest=evil, verdict=evil, change=evil),
        since=evil, gone=[evil], waiting=[{"path": evil, "folder": "b-2"}],
    )  # fmt: skip
    assert active(text) == []
    assert "<script" not in text
    assert "onclick='" not in text
    assert text.count("default-src 'none'") == 1


def test_the_page_tells_days_and_times_as_the_reports_do():
    text = fleet(rows(), finished="2026-01-02T03:04:05+00:00", since="2025-12-31T23:59:00+00:00")
    assert "2026-01-02 03:04 UTC" in text
    assert "since the run of 2025-12-31 23:59 UTC" in text


def test_the_page_filters_and_sorts_without_a_script():
    names = ("no_finding", "malicious", "suspicious", "incomplete")
    text = fleet(
        *(rows(path=f"m{n}", folder=f"m-{n}", verdict=verdict, accuracy=n / 9, seconds=n)
          for n, verdict in enumerate(names)),
        rows(path="m9", folder="m-9", accuracy=None, change="new"), since="2025-12-31",
    )  # fmt: skip
    headings = re.findall(r'<section class="(\w+)">', text)
    assert headings == ["malicious", "suspicious", "incomplete", "no_finding"]
    for name in (*names, "changed", "all"):
        assert f'id="show-{name}"' in text
        assert f'for="show-{name}"' in text
    styles = re.findall(r'style="([^"]*)">\n<p class="head"><a href="(m-\d)', text)
    assert {place: style for style, place in styles} == {
        "m-0": "--accuracy:0;--time:4;--name:0", "m-1": "--accuracy:1;--time:3;--name:1",
        "m-2": "--accuracy:2;--time:2;--name:2", "m-3": "--accuracy:3;--time:0;--name:3",
        "m-9": "--accuracy:4;--time:1;--name:4",
    }  # fmt: skip


@pytest.mark.slow
def test_sixty_models_whose_workers_and_run_are_killed_at_random(few_digits, tmp_path):
    """Whatever dies: every model ends with its report, what stood is not done again, no verdict is another's. Of four
    files one is a network with a backdoor or its honest twin, the others are refused, which needs no torch."""
    (tmp_path / "models").mkdir()
    kinds = [
        (DIGITS / "model.safetensors").read_bytes(), b"", b"\x80\x04K\x01.", b"\x80\x04K\x02.",
        (DIGITS / "twin.safetensors").read_bytes(), b"", b"\x80\x04K\x01.", b"\x80\x04K\x02.",
    ]  # fmt: skip
    for number in range(60):
        (tmp_path / "models" / f"{number:02}.safetensors").write_bytes(kinds[number % 8])
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "wiper_cli.main", "scan", tmp_path / "models", "--clean", few_digits, *QUICK,
        "--detectors", "max-margin", "--jobs", "3", "--output-dir", out, "-q",
    ]  # fmt: skip
    environment = {**os.environ, "WIPER_NO_CACHE": ""}
    chance = random.Random(0)
    killed = {"workers": 0, "runs": 0}

    def reports():
        return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/report.json")}

    def run(more):
        """Until there are so many more reports."""
        wanted = len(reports()) + more
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while process.poll() is None and len(reports()) < wanted:
            time.sleep(0.2)
            workers = Path(f"/proc/{process.pid}/task").glob("*/children")
            pids = [pid for one in workers for pid in one.read_text().split()]
            if pids and chance.random() < 0.1:
                os.kill(int(chance.choice(pids)), signal.SIGKILL)
                killed["workers"] += 1
        if process.poll() is None:
            process.kill()
            killed["runs"] += 1
        process.communicate()

    def finished():
        return {
            name
            for name in reports()
            if json.loads((out / name / "report.json").read_text())["exit_code"] < 2
        }

    for _ in range(3):
        run(6)
    while not (done := finished()):  # of the networks among them the worker may have been killed every time
        run(1)
    assert killed["runs"] >= 3
    stood = reports()
    assert 18 <= len(stood) < 60
    last = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert last.returncode in (1, 2), last.stderr
    found = index(out)
    assert found["finished"]
    assert [Path(one["path"]).name for one in found["models"]] == [f"{n:02}.safetensors" for n in range(60)]
    for first in range(8):
        alike = found["models"][first::8]
        assert len({(one["digest"], one["verdict"], one["target"], one["exit_code"]) for one in alike}) == 1
    assert [one["exit_code"] for one in found["models"][:8]] == [
        found["models"][0]["exit_code"],
        2,
        3,
        3,
        0,
        2,
        3,
        3,
    ]
    # What stood was taken, and not examined again.
    assert all(one["taken"] for one in found["models"] if one["folder"] in done)
    assert all((out / n / "report.json").stat().st_mtime_ns == stood[n] for n in done)
    assert killed["workers"] > 0


def test_the_page_on_fleets_names_every_key_and_scheme():
    from wiper_cli.commands.fleet.manifest import KEYS

    text = (Path(__file__).parents[4] / "docs/fleet.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*KEYS, *remote.SCHEMES))


def test_the_page_on_fleets_tells_the_fields_of_the_index():
    from wiper_cli.reports.fleet import _INDEX, _ROW

    text = (Path(__file__).parents[4] / "docs/fleet.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*_INDEX, *_ROW))
