"""A scan is not repeated: what an earlier one found is taken, and said to be; nothing strange in the cache is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from untimed import untimed

from formats import Hostile
from wiper_cli import scratch
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared import cache as module
from wiper_cli.commands.shared.cache import Cache, Entry, place
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.images import listing
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker import gate
from wiper_cli.worker.confinement import Isolation

DIGITS = example_folder()
QUICK = ("--input-size", "32", "--mean", "0", "--std", "1", "--effort", "quick", "--device", "cpu")
ONE = ("--detectors", "max-margin")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.delenv("WIPER_NO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    return tmp_path / "kept" / "wiper"


@pytest.fixture
def images(few_digits, tmp_path):
    return shutil.copytree(few_digits, tmp_path / "images")


@pytest.fixture
def model(tmp_path):
    return shutil.copy(DIGITS / "model.onnx", tmp_path / "model.onnx")


@pytest.fixture
def scan(wiper, child, folder, images, model):
    """``scan(*arguments)`` → (the report, how often a model was opened, stderr)."""

    def run(*arguments, detectors=ONE):
        before = len(child.requests)
        code, out, err = wiper("scan", model, "--clean", images, *QUICK, *detectors, "-f", "json", *arguments)
        document = json.loads(out)
        assert code == document["exit_code"]
        return document, len(child.requests) - before, err

    return run


def test_a_folder_of_reports_that_came_from_elsewhere_brings_no_verdict(scan, monkeypatch, tmp_path):
    reports = ("--output-dir", tmp_path / "reports")
    assert [scan(*reports)[1], scan(*reports)[1]] == [1, 0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another's"))
    first, opened, err = scan(*reports)
    assert (opened, first["cached"]) == (1, None)
    assert "is no entry of this cache" in err
    (kept,) = (tmp_path / "reports").glob("*/kept/*.scan")
    _, _, data = kept.read_bytes().partition(b"\n")
    kept.write_bytes(module._head(data, b"") + data)  # a digest is no seal
    assert scan(*reports)[1] == 1
    assert scan(*reports)[1] == 0


def test_looking_for_an_earlier_scan_ends_with_the_time(scan, folder, monkeypatch):
    scan()
    looked = []

    def stamp(path):
        looked.append(path)
        time.sleep(0.3)

    monkeypatch.setattr("wiper_cli.commands.shared.cache_key._stamp", stamp)
    report, opened, _ = scan("--timeout", "1")
    assert (report["cached"], opened) == (None, 1)
    assert len(looked) <= 4


@pytest.mark.parametrize("size", [0, listing.MOST_BYTES + 1])
def test_pictures_that_no_scan_reads_are_not_read_for_its_key(scan, images, monkeypatch, size):
    picture = next(images.rglob("*.png"))
    with (picture.parent / "large.png").open("wb") as file:
        file.truncate(size)
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more)
    )
    scan()
    assert picture in opened
    assert picture.parent / "large.png" not in opened


def test_a_picture_under_many_names_is_read_once_for_the_key(scan, images, monkeypatch):
    picture = next(images.rglob("*.png"))
    names = [picture.parent / f"{number}.png" for number in range(9)]
    for name in names:
        name.symlink_to(picture)
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more)
    )
    scan()
    assert len({picture, *names} & {*opened}) == 1


def test_where_no_seal_can_stand_nothing_of_a_folder_of_reports_is_taken(scan, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    reports = ("--output-dir", tmp_path / "reports")
    assert [scan(*reports)[1], scan(*reports)[1]] == [1, 1]
    assert not [*(tmp_path / "reports").glob("*/kept/*")]


def test_the_second_scan_takes_what_the_first_found_and_says_so_in_every_report(scan, folder, tmp_path):
    first, opened, _ = scan()
    assert (opened, first["cached"]) == (1, None)
    files = [tmp_path / name for name in ("page.html", "a.txt", "a.md", "a.sarif", "a.xml")]
    formats = ("html", "text", "markdown", "sarif", "junit")
    second, opened, err = scan(*(f"-f{name}={file}" for name, file in zip(formats, files, strict=True)), "-v")
    assert opened == 0
    assert second["cached"] == {"made": first["created"], "whole": True, "detectors": ["max-margin"]}
    assert untimed(second) == untimed(first)
    said = f"From the cache: this is what the scan of {first['created']}"
    for file in files:
        assert said in " ".join(file.read_text().replace("# ", "").split()).replace("&#8203;", ""), file.name
    assert said in err
    assert oct(folder.stat().st_mode)[-3:] == "700"


def test_pictures_of_what_was_recovered_survive(scan):
    detectors = ("--detectors", "max-margin,square-probe")
    first, _, _ = scan(detectors=detectors)
    shown = [one["trigger"]["pictures"] for one in first["detection"]["detectors"] if one["trigger"]]
    assert shown
    second, opened, _ = scan(detectors=detectors)
    assert opened == 0
    assert untimed(second) == untimed(first)


@pytest.mark.parametrize(
    "change",
    [
        "an image",
        "another name",
        "one image more",
        "an empty folder",
        "model",
        "sidecar",
        "seed",
        "detectors",
        "code",
        "isolation",
    ],
)
def test_whatever_a_scan_depends_on_makes_it_another(
    scan, child, scanned, images, model, monkeypatch, change
):
    child.answers[ScanRequest] = scanned()
    scan("--isolation", "auto")
    some = next(images.rglob("*.png"))
    other = next(path for path in images.rglob("*.png") if path.read_bytes() != some.read_bytes())
    arguments, detectors = ("--isolation", "auto"), ONE
    if change == "an image":
        shutil.copy(other, some)
    elif change == "another name":
        some.rename(some.with_stem("zzz"))
    elif change == "one image more":
        shutil.copy(some, some.with_stem("zzz"))
    elif change == "an empty folder":  # the numbers of all classes behind it are others
        (images / "00").mkdir()
    elif change == "model":
        shutil.copy(DIGITS / "model.safetensors", model)
    elif change == "sidecar":
        (images.parent / "config.json").write_text("{}")
    elif change == "seed":
        arguments = (*arguments, "--seed", "1")
    elif change == "detectors":
        detectors = ("--detectors", "none")
    elif change == "isolation":
        arguments = ("--isolation", "off")
    else:
        monkeypatch.setattr("wiper_cli.commands.shared.cache_key._code", lambda: "other")
    document, opened, _ = scan(*arguments, detectors=detectors)
    assert (opened, document["cached"]) == (1, None)


def test_a_model_by_another_name_is_the_same_one(wiper, scan, child, model, images):
    first, _, _ = scan()
    before, other = len(child.requests), model.rename(model.with_name("other.onnx"))
    _, out, _ = wiper("scan", other, "--clean", images, *QUICK, *ONE, "-f", "json")
    second = json.loads(out)
    assert len(child.requests) == before
    assert second["model"]["path"] == str(other)
    assert second["sentence"] == first["sentence"]


def test_what_does_not_matter_does_not(scan, child, scanned, images):
    child.answers[ScanRequest] = scanned(
        verdict=Verdict.SUSPICIOUS, findings=(Finding("WIPER-B03", Severity.LOW, "A square."),)
    )
    assert scan()[0]["exit_code"] == 0
    for path in images.rglob("*.png"):
        os.utime(path, (1, 1))
    document, opened, _ = scan("--timeout", "500", "--fail-on", "low", "-q")
    assert opened == 0
    assert document["exit_code"] == 1  # by --fail-on as it is now


def test_nothing_is_kept_or_used_where_that_is_not_wanted(scan, child, scanned, folder):
    child.answers[ScanRequest] = scanned()
    scan("--no-cache")
    assert not folder.exists()
    scan()
    assert scan("--no-cache")[1] == 1


def written(path):
    path.write_bytes(path.read_bytes() + b"\0")


def written_and_back(path):
    before, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(before)))
    path.write_bytes(before)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def there_and_gone(path):
    status = path.parent.stat()
    (path.parent / "zzz.png").touch()
    (path.parent / "zzz.png").unlink()
    os.utime(path.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [written, written_and_back, there_and_gone, lambda path: (path.parents[1] / "zzz").mkdir()]
)
def test_images_that_change_meanwhile_are_not_taken_for_those_that_were_read(
    wiper, folder, images, model, monkeypatch, scanned, change
):
    def ask(request, progress, log, timeout, mode, isolated, bounds, interim):
        if isinstance(request, gate.JOBS):
            return gate.run(request)
        change(next(images.rglob("*.png")))
        return scanned()

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    wiper("scan", model, "--clean", images, *QUICK, *ONE, "-q")
    assert [*folder.glob("*.scan")] == []


def test_a_scan_that_was_broken_off_goes_on_with_what_it_had(scan, child, monkeypatch, tmp_path):
    """And comes to the same, to the digit."""
    detectors = ("--detectors", "max-margin,square-probe,shape-probe")
    whole, _, _ = scan("--no-cache", detectors=detectors)
    runs = []

    def broken(name, after):
        from importlib import import_module

        method = import_module(f"wiper_cli.detectors.{name}.method")
        true = method.look

        def look(*arguments):
            runs.append(name)
            if after:
                raise Problem("It took too long.", ExitCode.NO_VERDICT)
            return true(*arguments)

        monkeypatch.setattr(method, "look", look)
        return lambda: monkeypatch.setattr(method, "look", true)

    for name in ("max_margin", "square_probe"):
        broken(name, after=False)
    mend = broken("shape_probe", after=True)
    first, _, _ = scan(detectors=detectors)
    assert first["not_done"][-1] == {"what": "the rest of the scan", "why": "It took too long."}
    assert runs == ["max_margin", "square_probe", "shape_probe"]
    mend()
    page = tmp_path / "a.txt"
    second, opened, _ = scan(f"-ftext={page}", detectors=detectors)
    assert (opened, runs) == (1, ["max_margin", "square_probe", "shape_probe"])
    assert second["cached"] == {
        "made": first["created"], "whole": False, "detectors": ["max-margin", "square-probe"],
    }  # fmt: skip
    assert untimed(second) == untimed(whole)
    assert "Resumed: max-margin, square-probe had been run by a scan of" in page.read_text()
    third, opened, _ = scan(detectors=detectors)
    assert (opened, third["cached"]["whole"]) == (0, True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_was_killed_goes_on_with_what_it_had(folder, images, model, tmp_path):
    """The command as installed, its confined child, and SIGKILL."""
    command = [sys.executable, "-m", "wiper_cli.main", "scan", model, "--clean", images, *QUICK]
    command += ["--detectors", "max-margin,square-probe,shape-probe", "-q", "-f", "json"]
    given = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}}
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **given)
    deadline = time.monotonic() + 600
    while not [*folder.glob("[!.]*.scan")]:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    document = json.loads(subprocess.run(command, capture_output=True, check=False, **given).stdout)
    assert document["cached"]["whole"] is False
    assert document["cached"]["detectors"][0] == "max-margin"
    assert len(document["cached"]["detectors"]) < 3
    assert all(one["ran"] for one in document["detection"]["detectors"])


def damaged(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def linked(path):
    target = path.with_suffix(".elsewhere")
    path.rename(target)
    path.symlink_to(target)


def renamed(path):
    other = next(one for one in path.parent.glob("*.scan") if one != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        damaged, linked, renamed,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_passed_over_with_one_remark(
    wiper, folder, images, model, monkeypatch, scanned, harm
):
    asked = []

    def ask(request, progress, log, timeout, mode, isolated, bounds, interim):
        if isinstance(request, gate.JOBS):
            return gate.run(request)
        asked.append(request)
        return scanned()

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    arguments = ("scan", model, "--clean", images, *QUICK, *ONE, "-f", "json")
    wiper(*arguments)
    (entry,) = folder.glob("*.scan")
    wiper(*arguments, "--seed", "1")
    harm(entry)
    code, out, err = wiper(*arguments)
    assert (code, json.loads(out)["cached"], len(asked)) == (0, None, 3)
    assert err.count("was passed over") == 1


def test_a_folder_that_others_can_enter_is_not_used(scan, folder):
    folder.mkdir(parents=True, mode=0o755)
    document, _, err = scan(detectors=("--detectors", "none"))
    assert f"{folder} is not used as a cache" in err
    assert [*folder.iterdir()] == []
    assert document["cached"] is None


def test_without_a_place_to_write_the_scan_just_runs(scan, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert scan(detectors=("--detectors", "none"))[1] == 1
    assert scan(detectors=("--detectors", "none"))[1] == 1
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(*_):
        raise RuntimeError("no home")

    monkeypatch.setattr(module.Path, "home", homeless)
    assert place() is None
    assert scan(detectors=("--detectors", "none"))[1] == 1


def test_a_cache_in_the_working_directory_is_not_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place() == tmp_path / ".cache" / "wiper"


def test_the_gate_is_asked_every_time(scan, child, scanned):
    child.answers[ScanRequest] = scanned()
    scan()
    child.answers[gate.GateJob] = Hostile("Refused.", "WIPER-ST-001", "header")
    document, opened, _ = scan()
    assert (document["verdict"], opened, document["cached"]) == ("malicious", 0, None)


def test_a_program_of_the_user_or_a_plug_in_is_in_no_key(
    child, folder, images, model, wiper, monkeypatch, scanned
):
    child.answers[ScanRequest] = scanned()
    program = images.parent / "net.py"
    program.write_text("")
    wiper("scan", model, "--clean", images, *ONE, "--arch", f"{program}:make", "-q")
    monkeypatch.setenv("WIPER_PLUGIN", "")
    assert [*folder.glob("*.scan")] == []
    wiper("scan", model, "--clean", images, *ONE, "-q")
    assert len([*folder.glob("*.scan")]) == 1


def entry(scanned, key, **fields):
    return Entry(
        key=key,
        made="2026-11-30T00:00:00+00:00",
        model="m\x1b[2J.onnx",
        isolation=Isolation(),
        answer=scanned(**fields),
    )


def test_entries_are_shown_and_removed_and_the_oldest_go(wiper, folder, scanned, monkeypatch):
    cache = Cache(place())
    cache.put(entry(scanned, "a" * 64))
    cache.put(entry(scanned, "b" * 64, complete=False, verdict=Verdict.INCOMPLETE))
    (folder / ("c" * 64 + ".scan")).write_text("no entry")
    killed = scratch.Claim(folder / (".wiper-" + "f" * 64 + ".scan"))  # while it wrote
    scratch._make(killed)
    os.close(killed.lock)
    _, out, err = wiper("cache", "show")
    assert [line.split()[0] for line in out.splitlines()] == [str(folder), "b" * 12, "a" * 12]
    assert "broken off" in out
    assert "no_finding" in out
    assert "\x1b" not in out
    assert err.count("was passed over") == 1
    monkeypatch.setattr(module, "MOST", 2)
    os.utime(folder / ("b" * 64 + ".scan"), (1, 1))
    cache.put(entry(scanned, "d" * 64))
    assert {path.name[0] for path in folder.glob("*.scan")} == {"c", "d"}
    monkeypatch.setattr(module, "TOTAL", 1 + (folder / ("d" * 64 + ".scan")).stat().st_size)
    cache.put(entry(scanned, "e" * 64))
    assert {path.name[0] for path in folder.glob("*.scan")} == {"e"}
    (folder / "folder.scan").mkdir()  # nothing of ours
    _, out, _ = wiper("cache", "clear")
    assert out == "1 removed.\n"
    (folder / "folder.scan").rmdir()
    assert not killed.place.exists()  # the next to write has swept up
    assert [*folder.iterdir()] == []
