"""``python killed.py SCENARIO FOLDER``: does one thing over and over in a fork that is killed (SIGKILL) before its
first, second, … step: whatever opens, makes, renames, links or removes something, puts data on the disk, or has written
half of it. Then it is done again, every other time killed once more, and at last undisturbed. Prints what stood after
each.

A script of its own, since a process with threads must not fork.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from formats import Source
from wiper_cli.commands.shared.transaction import commit, lay_out, reserved
from wiper_cli.scratch import HIDDEN, held, write_whole
from wiper_cli.worker.parent import private_copy

STEPS = ("open", "os.", "shutil.rmtree")


def kill_at(step):
    left = [step]

    def tick(event="os.", *_):
        if event.startswith(STEPS):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    class Half:
        def __init__(self, file):
            self.file, self.flush, self.fileno = file, file.flush, file.fileno

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            tick()
            self.file.write(data[len(data) // 2 :])

    fdopen = os.fdopen
    os.fsync = lambda descriptor: tick()
    os.fdopen = lambda *given: Half(fdopen(*given))
    sys.addaudithook(tick)


def pair(tag):
    """A model and its data, of one tag each."""
    data = f"out.onnx.{tag * 16}.data"
    return {data: tag.encode() * 5000, "out.onnx": f"{tag} names {data}".encode()}


def shards(tag, count):
    """An index and its shards."""
    files = {f"out.onnx.{tag * 16}-{number}.safetensors": tag.encode() * 5000 for number in range(count)}
    return {**files, "out.onnx": f"{tag} names {' '.join(files)}".encode()}


def purify(files, original="model.onnx"):
    """As the command does it, over what may stand."""

    def work(folder, force):
        with reserved(folder / "out.onnx", Path(original), force) as place:
            commit(place, lay_out(place, Source(original, b""), files))

    return work


def report(folder, force):
    write_whole(folder / "out.json", b"b" * 5000)


def specimen(folder, force):
    if not (folder / "out").exists():
        with held(folder, HIDDEN, "out") as partial:
            (partial / "inner").mkdir()
            (partial / "inner" / "file").write_bytes(b"b")
            partial.rename(folder / "out")
    write_whole(folder / "table", b"t")


def copy(folder, force):
    tempfile.tempdir = str(folder)
    with private_copy(Source("m.onnx", b"b", {"w.bin": b"b"}, {"config.json": b"b"})):
        pass


ONE, PAIR = {"out.onnx": b"b"}, pair("b")
#: What stands before, what is done, and the names that stand afterwards.
SCENARIOS = {
    "a file": ({}, purify(ONE), ONE),
    "a file for a file": ({"out.onnx": b"a"}, purify(ONE), ONE),
    "a pair": ({}, purify(PAIR), PAIR),
    "a pair for a pair": (pair("a"), purify(PAIR), PAIR),
    "a pair for the same": (PAIR, purify(PAIR), PAIR),
    "a file for a pair": (pair("a"), purify(ONE), ONE),
    "a pair for a file": ({"out.onnx": b"a"}, purify(PAIR), PAIR),
    "shards": ({}, purify(shards("b", 2)), shards("b", 2)),
    "shards for shards": (shards("a", 3), purify(shards("b", 2)), shards("b", 2)),
    "a report": ({"out.json": b"a"}, report, ["out.json"]),
    "a specimen": ({}, specimen, ["out", "table"]),
    "a private copy": ({}, copy, []),
}


def put(scenario, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in SCENARIOS[scenario][0].items():
        (folder / name).write_bytes(data)


def stands(folder):
    """The tag of what stands, ``?`` where parts of it differ or lack, and how many files and folders there are."""
    model = folder / "out.onnx"
    parts = [
        path.read_bytes() for path in (model, folder / "out.json", folder / "out/inner/file") if path.exists()
    ]
    if model.exists() and b" names " in parts[0]:
        for name in parts[0].decode().partition(" names ")[2].split():
            parts.append((folder / name).read_bytes() if (folder / name).exists() else b"")
            if parts[-1] != parts[0][:1] * 5000:
                return "?"
    tags = {part[:1].decode() for part in parts if part[:1]}
    return "".join(sorted(tags)) if len(tags) < 2 else "?"


def attempt(work, folder, force, step):
    """Whether the work was killed."""
    child = os.fork()
    if not child:
        kill_at(step)
        work(folder, force)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def main(scenario, folder):
    before, work, _ = SCENARIOS[scenario]
    records = folder.with_name("cache")
    os.environ["XDG_CACHE_HOME"] = str(records)
    rows = []
    for step in range(1, 1000):
        put(scenario, folder)
        killed = attempt(work, folder, bool(before), step)
        found = stands(folder)
        # The recovery itself may be killed, too.
        again = bool(step % 2) and attempt(work, folder, True, step // 2)
        between = stands(folder) if again else found
        work(folder, True)
        left = [path.name for place in (folder, records / "wiper-runs") for path in place.iterdir()]
        rows.append([found, between, stands(folder), sorted(left)])
        if not killed:
            break
    print(json.dumps(rows))


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # the system goes on, and the test need not wait for the disk
    main(sys.argv[1], Path(sys.argv[2]))
