"""A red team inside the child: attack code runs after the lock-down, as if every check before it had failed."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from wiper_cli.worker import confinement
from wiper_cli.worker.confinement import Isolation, Layer, Terms

needs_all = pytest.mark.usefixtures("lockable")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")

#: As root the attacks run as root and as nobody; else as whoever runs the tests.
IDENTITIES = (0, 65534) if os.name == "posix" and os.geteuid() == 0 else (None,)

SETTING = """
import _posixshmem, ctypes, encodings.idna, errno, fcntl, json, mmap, multiprocessing.shared_memory, os, resource
import signal, socket, struct, subprocess, sys, tempfile, threading, time
from wiper_cli.worker import confinement

given, secret, victim, port, identity, mode = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
if identity:
    os.setgroups([]); os.setgid(identity); os.setuid(identity)

def call(number, *arguments):
    outcome = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if outcome < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return outcome

os.chdir(given)
terms = confinement.Terms(mode, (given,))
layers = confinement.enter(terms)
early, go = [], threading.Event()
def waiting():
    go.wait()
    for attack in (lambda: open(secret).read(), socket.socket):
        try: attack(); early.append("done")
        except OSError as error: early.append(error.errno)
thread = threading.Thread(target=waiting)
thread.start()
layers += confinement.seal(terms)
assert mode == "off" or all(layer.holds for layer in layers), layers
"""


def python(code, ground, *, identity=None, mode="require", victim=0, port=0, stdin=""):
    """Runs ``code`` after the lock-down of a fresh process."""
    arguments = json.dumps([*map(str, ground), victim, port, identity, mode])
    return subprocess.run(
        [sys.executable, "-c", SETTING + code, arguments], input=stdin, capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(Path(confinement.__file__).parents[2])},
    )  # fmt: skip


def lay_out(folder):
    """A folder that is given and a secret beside it, open to everybody, with links between them."""
    given, beside = folder / "given", folder / "beside"
    given.mkdir()
    beside.mkdir()
    (beside / "secret").write_text("secret")
    (beside / "picture").write_bytes(b"\x89PNG and more")
    (given / "own.txt").write_text("given")
    for path in (folder, given, beside, *given.iterdir(), *beside.iterdir()):
        path.chmod(0o777)
    (given / "to_file").symlink_to(beside / "secret")
    (given / "to_folder").symlink_to(beside)
    return given, beside / "secret"


@pytest.fixture(scope="module")
def ground():
    with tempfile.TemporaryDirectory() as folder:  # nobody cannot enter pytest's own
        yield lay_out(Path(folder))


def attempt(attacks, ground, identity, mode="require"):
    """Name of each attack → "done", the number of its error, or another exception."""
    user = {"user": identity} if identity else {}
    with (
        subprocess.Popen(["sleep", "600"], **user) as victim,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        ran = python(
            TRY_ALL, ground, identity=identity, mode=mode, victim=victim.pid, port=server.getsockname()[1],
            stdin=json.dumps(attacks),
        )  # fmt: skip
        alive = victim.poll() is None
        victim.kill()
    assert ran.returncode == 0, ran.stderr
    assert alive
    return json.loads(ran.stdout)


#: Attacks that are answered with an error, by name: an expression.
REFUSED = {
    # reading
    "read a secret": "open(secret).read()",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "list the home folder": "os.listdir(os.path.expanduser('~'))",
    "list the root folder": "os.listdir('/')",
    "read through a link": "open('to_file').read()",
    "read through a linked folder": "open('to_folder/secret').read()",
    "read through ..": "open('../beside/secret').read()",
    "read through a descriptor of the folder": "os.open('../beside/secret', 0, dir_fd=os.open('.', os.O_PATH))",
    "read through /proc/self/root": "open('/proc/self/root' + secret).read()",
    "read through /proc/self/cwd": "open('/proc/self/cwd/../beside/secret').read()",
    "read its memory": "open('/proc/self/mem', 'rb').read(1)",
    "read its environment": "open('/proc/self/environ').read()",
    "read the parent's environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "read the parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "read the parent's links": "os.readlink(f'/proc/{os.getppid()}/cwd')",
    "read the parent's files": "os.listdir(f'/proc/{os.getppid()}/fd')",
    "read a device": "open('/dev/zero', 'rb').read(1)",
    # changing files
    "make a folder": "os.mkdir('folder')",
    "make a link": "os.symlink(secret, 'link')",
    "make a hard link": "os.link(secret, 'hard')",
    "make a pipe": "os.mkfifo('pipe')",
    "truncate": "os.truncate('own.txt', 0)",
    "chmod": "os.chmod('own.txt', 0o777)",
    "chown": "os.chown('own.txt', os.getuid(), os.getgid())",
    "set times": "os.utime('own.txt')",
    "set an attribute": "os.setxattr('own.txt', 'user.a', b'b')",
    "rename": "os.rename('own.txt', 'other')",
    "remove": "os.unlink('other')",
    "chroot": "os.chroot('.')",
    # the network
    "TCP": "socket.create_connection(('127.0.0.1', port))",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port))",
    "a unix socket": "socket.socket(socket.AF_UNIX)",
    "an abstract socket": r"socket.socket(socket.AF_UNIX).bind('\0wiper')",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "a socket pair": "socket.socketpair()",
    # programs and processes
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit'])",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork()",
    "kill the parent": "os.kill(os.getppid(), 0)",
    "kill another": "os.kill(victim, 9)",
    "signal through a descriptor": "fcntl.fcntl(1, fcntl.F_SETOWN, victim)",
    "leave the session": "os.setsid()",
    "leave the group": "os.setpgid(0, 0)",
    "limit another": "resource.prlimit(victim, resource.RLIMIT_NOFILE, (0, 0))",
    "pin another": "os.sched_setaffinity(victim, {0})",
    "slow another": "os.setpriority(os.PRIO_PROCESS, victim, 19)",
    "a larger pipe": "fcntl.fcntl(1, 1031, 1 << 20)",
    # the lock itself
    "outlive the parent": "check(libc.prctl(1, 0, 0, 0, 0))",
    "be dumped": "check(libc.prctl(4, 1, 0, 0, 0))",
    "raise a limit": "call(160, 1, struct.pack('<QQ', 1 << 40, 1 << 40))",
    "type into a terminal": "fcntl.ioctl(0, 0x5412, b'x')",
    # the kernel, by number
    "vfork": "call(58)",
    "clone3": "call(435, b'\\0' * 88, 88)",
    "tgkill": "call(234, victim, victim, 9)",
    "tkill": "call(200, victim, 9)",
    "queue a signal": "call(129, victim, 9, b'\\0' * 128)",
    "pidfd": "call(434, victim, 0)",
    "ptrace": "call(101, 16, victim, 0, 0)",
    "read another's memory": "call(310, victim, struct.pack('<QQ', 0, 0), 1, struct.pack('<QQ', 0, 0), 1, 0)",
    "write another's memory": "call(311, victim, struct.pack('<QQ', 0, 0), 1, struct.pack('<QQ', 0, 0), 1, 0)",
    "io_uring": "call(425, 1, b'\\0' * 120)",
    "bpf": "call(321, 0, b'\\0' * 72, 72)",
    "perf": "call(298, b'\\0' * 112, 0, -1, -1, 0)",
    "userfaultfd": "call(323, 0)",
    "a file in memory": "call(319, b'name', 0)",
    "run a file in memory": "os.execve(os.memfd_create('a'), ['a'], {})",
    "execveat": "call(322, -1, b'/bin/true', 0, 0, 0)",
    "unshare": "call(272, 0x10000000)",
    "a namespace": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "setns": "call(308, 0, 0)",
    "keyctl": "call(250, 0, 0)",
    "add_key": "call(248, b'user', b'a', b'b', 1, -3)",
    "mount": "call(165, 0, 0, 0, 0, 0)",
    "open_tree": "call(428, -100, b'/', 1)",
    "openat2": "call(437, -100, secret.encode(), b'\\0' * 24, 24)",
    "open by handle": "call(304, -100, b'\\0' * 16, 0)",
    "shared memory": "call(29, 4242, 4096, 0o600)",
    "a message queue": "call(240, b'name', 0o102, 0o600, 0)",
    "creat": "call(85, b'created', 0o600)",
    "a module": "call(175, b'', 0, b'')",
    "set the host's name": "call(170, 0, 1)",
    "the x32 interface": "call(0x40000000 + 39)",
    "a second lock": "call(317, 1, 0, b'\\0' * 16)",
    "chdir": "os.chdir('/')",
}  # fmt: skip

#: Attempts to write, which end the process: nothing here has a reason for them.
FATAL = {
    "a new file": "open('new', 'w')",
    "a new file elsewhere": "open('../beside/new', 'w')",
    "a given file": "open('own.txt', 'a')",
    "a file without a name": "os.open('.', os.O_TMPFILE | os.O_RDWR)",
    "a file cut": "os.open('own.txt', os.O_RDONLY | os.O_TRUNC)",
    "its memory": "open('/proc/self/mem', 'r+b')",
    "the parent's memory": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "a device": "open('/dev/null', 'w')",
    "shared memory": "multiprocessing.shared_memory.SharedMemory(create=True, size=10).unlink()",
    "from a C library": "libc.fopen(b'new', b'w')",
}
#: Of these, what must succeed without the lock, so that an attack that never works does not count as refused.
EARNEST = {
    "read a secret", "read /etc/passwd", "list the home folder", "list the root folder", "read through a link",
    "read through a linked folder", "read through ..", "read through /proc/self/root", "read its environment",
    "chmod", "set times", "TCP", "UDP", "a unix socket", "an abstract socket", "a socket pair", "spawn", "chdir",
    "rename", "make a folder", "make a link", "make a pipe", "truncate", "leave the group", "a file in memory",
    "outlive the parent", "limit another", "pin another", "slow another", "creat", "pidfd", "remove",
}  # fmt: skip

TRY_ALL = """
def check(outcome):
    if outcome < 0:
        raise OSError(ctypes.get_errno(), "")
outcomes = {}
for name, attack in json.load(sys.stdin).items():
    try: eval(attack); outcomes[name] = "done"
    except OSError as error: outcomes[name] = error.errno
    except Exception as error: outcomes[name] = repr(error)
print(json.dumps(outcomes), flush=True)
os._exit(0)
"""
#: Attacks that this machine can be asked to run.
HERE = {
    name: attack
    for name, attack in REFUSED.items()
    if platform.machine() == "x86_64" or "call(" not in attack
}


@pytest.fixture(scope="module", params=IDENTITIES)
def outcomes(request, ground, lockable):
    return attempt(HERE, ground, request.param)


@needs_all
@pytest.mark.parametrize("name", HERE)
def test_an_attack_is_refused(name, outcomes):
    assert outcomes[name] in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTTY)


@needs_all
@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("attack", FATAL.values(), ids=FATAL)
def test_an_attempt_to_write_ends_the_process(attack, identity, ground):
    before = sorted(path.name for folder in ground for path in Path(folder).parent.rglob("*"))
    ran = python(attack + "\nprint('went on')", ground, identity=identity)
    assert (ran.returncode, ran.stdout) == (-signal.SIGSYS, "")
    assert before == sorted(path.name for folder in ground for path in Path(folder).parent.rglob("*"))


def test_the_attacks_work_where_nothing_is_locked(tmp_path):
    """Otherwise a mistyped attack would pass for a refused one."""
    ground = lay_out(tmp_path)
    earnest = {name: HERE[name] for name in HERE if name in EARNEST}
    assert attempt(earnest, ground, None, "off") == dict.fromkeys(earnest, "done")
    (tmp_path / "given" / "own.txt").write_text("given")
    for attack in FATAL.values():
        ran = python(attack + "\nprint('went on', flush=True); os._exit(0)", ground, mode="off")
        assert ran.stdout == "went on\n", (attack, ran.stderr)


@needs_all
@pytest.mark.parametrize("identity", IDENTITIES)
def test_threads_that_ran_before_are_bound_too(identity, ground):
    ran = python("go.set(); thread.join(); print(early)", ground, identity=identity)
    assert ran.stdout == f"[{errno.EACCES}, {errno.EPERM}]\n", ran.stderr


@needs_all
@x86_64
def test_the_calls_of_another_machine_end_the_process(ground):
    code = """
    room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    print(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid(), flush=True); os._exit(0)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    assert python(code, ground).returncode == -signal.SIGSYS
    assert python(code, ground, mode="off").stdout == "True\n"


@needs_all
@pytest.mark.parametrize("identity", IDENTITIES)
def test_what_a_job_needs_still_works(identity, ground):
    code = """
    for call in (
        lambda: open("own.txt").read(), lambda: open("to_folder/picture", "rb").read(), lambda: os.listdir("to_folder"),
        lambda: threading.Thread(target=time.sleep, args=(0,)).start(), lambda: mmap.mmap(-1, 1 << 20),
        lambda: os.urandom(1), lambda: os.stat("/etc/passwd"), lambda: os.kill, lambda: os.sched_getaffinity(0),
    ): call()
    print("done", flush=True); os._exit(0)
    """
    assert python("if True:" + code, ground, identity=identity).stdout == "done\n"


@needs_all
def test_modules_are_imported_after_the_lock(ground):
    assert (
        python("import wave, xml.dom.minidom; print('done', flush=True); os._exit(0)", ground).stdout
        == "done\n"
    )


@needs_all
@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_child_dies_with_its_parent_although_the_interpreter_is_held(identity, ground):
    held = "print(os.getpid(), flush=True); ctypes.PyDLL(None).sleep(600)"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    arguments = json.dumps([*map(str, ground), 0, 0, identity, "require"])
    with subprocess.Popen(
        [sys.executable, "-c", parent, SETTING + held, arguments], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(confinement.__file__).parents[2])},
    ) as running:  # fmt: skip
        child = int(running.stdout.readline())
        running.kill()
        running.wait()
        ended = time.monotonic() + 10
        while (stat := state(child)) not in ("", "Z"):
            assert time.monotonic() < ended, f"the child still runs: {stat}"
            time.sleep(0.01)


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@needs_all
def test_where_a_gpu_may_be_used_writing_and_the_network_are_refused_all_the_same(ground):
    """The weaker profile, on the CPU: reading stays open, and the report says what is missing."""
    code = """
confinement.Terms.cuda = property(lambda _: True)
layers = confinement.enter(confinement.Terms()) + confinement.seal(confinement.Terms())
told = [[layer.name for layer in confinement.Isolation(tuple(layers)).missing], open(secret).read()]
for attack in (
    lambda: open("new", "w"), lambda: os.unlink("own.txt"), lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: os.kill(os.getppid(), 0), lambda: os.execv("/bin/true", ["true"]),
):
    try: told.append(attack())
    except PermissionError: told.append("refused")
print(json.dumps(told), flush=True)
os._exit(0)
"""
    ran = python(code, ground, mode="off")
    assert json.loads(ran.stdout) == [["seccomp"], "secret", *["refused"] * 5], ran.stderr


@needs_all
def test_without_landlock_the_filter_of_calls_still_stands(ground):
    """An older kernel: the layer is named, and neither writing nor the network is open."""
    code = """
def absent(name, *arguments):
    if name.startswith("landlock"): raise OSError(errno.ENOSYS, "not in this kernel")
    return real(name, *arguments)
real, confinement._call = confinement._call, absent
"""
    start, rest = SETTING.split("os.chdir(given)")
    changed = start + code + "os.chdir(given)" + rest
    arguments = json.dumps([*map(str, ground), 0, 0, None, "off"])
    last = """
layers = confinement.enter(confinement.Terms()) + confinement.seal(confinement.Terms())
print(confinement.Isolation(tuple(layers)).note)
try: socket.socket()
except PermissionError: print("refused", flush=True)
open("new", "w")
"""
    ran = subprocess.run(
        [sys.executable, "-c", changed + last, arguments], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(confinement.__file__).parents[2])},
    )  # fmt: skip
    assert ran.stdout == "Missing: landlock (not in this kernel).\nrefused\n", ran.stderr
    assert ran.returncode == -signal.SIGSYS


def test_elsewhere_every_layer_says_that_it_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    layers = confinement.enter(Terms(mode="require"))
    assert [layer.holds for layer in layers] == [False] * 3
    assert all(layer.detail.startswith("not on darwin") for layer in layers)


def test_a_record_says_what_holds():
    held, missing = Layer("a", True, "well"), Layer("b", False, "no such kernel")
    assert Isolation((held,)).confined
    assert not Isolation((held, missing)).confined
    assert Isolation((held, missing)).as_dict() == {
        "process": "child",
        "confined": False,
        "note": "Missing: b (no such kernel).",
        "layers": [
            {"name": "a", "holds": True, "detail": "well"},
            {"name": "b", "holds": False, "detail": "no such kernel"},
        ],
    }
    assert not Isolation(()).confined


def judge(steps, architecture, number, *arguments):
    """What the filter answers to a call: the program run as the kernel does."""
    data = {0: number, 4: architecture, **{16 + 8 * i: a & 0xFFFFFFFF for i, a in enumerate(arguments)}}
    at, value = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        if code == 0x06:
            return operand
        if code == 0x20:
            value = data.get(operand, 0)
            at += 1
        else:
            hit = {0x15: value == operand, 0x45: bool(value & operand), 0x35: value >= operand}[code]
            at += 1 + (yes if hit else no)


@pytest.mark.parametrize(
    ("machine", "architecture", "numbers"),
    [
        ("x86_64", 0xC000003E, {"read": 0, "openat": 257, "clone": 56, "socket": 41, "execve": 59, "tgkill": 234}),
        ("aarch64", 0xC00000B7, {"read": 63, "openat": 56, "clone": 220, "socket": 198, "execve": 221, "tgkill": 131}),
    ],
)  # fmt: skip
def test_the_filter_on_both_machines(machine, architecture, numbers):
    steps = confinement.program(machine, 4242)
    assert len(steps) < 4096
    allow, kill = 0x7FFF0000, 0x80000000
    denied, absent = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    for call, arguments, answer in [
        ("read", (), allow),
        ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), allow),
        ("openat", (0, 0, os.O_WRONLY), kill),
        ("openat", (0, 0, os.O_RDONLY | os.O_CREAT), kill),
        ("clone", (0x3D0F00,), allow),
        ("clone", (signal.SIGCHLD,), denied),
        ("clone", (0x4111,), denied),
        ("socket", (), denied),
        ("execve", (), denied),
        ("tgkill", (4242,), allow),
        ("tgkill", (4243,), denied),
    ]:
        assert judge(steps, architecture, numbers[call], *arguments) == answer, (call, arguments)
    assert judge(steps, architecture, 425) == absent  # io_uring_setup
    assert judge(steps, architecture, 435) == absent  # clone3
    assert judge(steps, 0x40000003, numbers["read"]) == kill
    assert judge(steps, architecture, 0x40000000 + numbers["read"]) == absent


def test_links_open_pictures_and_names_within_bounds(tmp_path, monkeypatch):
    given, secret = lay_out(tmp_path)
    (given / "to_proc").symlink_to("/proc")
    (given / "to_itself").symlink_to(given)

    def granted():
        return {(os.path.realpath(path), rights) for path, rights in confinement._linked([str(given)])}

    picture = (os.path.realpath(secret.parent / "picture"), 1 << 2)
    assert granted() == {(os.path.realpath(secret.parent), 1 << 3), picture}
    monkeypatch.setattr(confinement, "_MOST_LINKED", 1)
    assert picture not in granted()


def test_folders_in_each_other_and_many_entries_end_within_bounds(tmp_path, monkeypatch):
    """What lies deeper than images may, or behind too many entries, is not looked at, and paths are resolved once."""
    picture = tmp_path / "outside" / "picture"
    picture.parent.mkdir()
    picture.write_bytes(b"GIF8")
    folders = [tmp_path / "given"]
    for _ in range(300):
        folders.append(folders[-1] / "a")
    folders[-1].mkdir(parents=True)
    (folders[32] / "within").symlink_to(picture)
    (folders[33] / "beyond").symlink_to(picture)
    resolved, looked = [], []
    realpath, scandir = os.path.realpath, os.scandir
    monkeypatch.setattr(os.path, "realpath", lambda path: resolved.append(path) or realpath(path))
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or scandir(path))
    granted = [Path(path).name for path, _ in confinement._linked([str(folders[0])])]
    assert (granted, len(looked), len(resolved)) == (["within"], 33, 1)
    monkeypatch.setattr(confinement, "_MOST", 20)
    looked.clear()
    assert (list(confinement._linked([str(folders[0])])), len(looked)) == ([], 21)


def test_packages_that_a_folder_only_links_to_are_found(tmp_path):
    store, site = tmp_path / "store", tmp_path / "site"
    for package in ("whole", "by_file", "own"):
        (store / package).mkdir(parents=True)
        (store / package / "__init__.py").touch()
    (site / "by_file").mkdir(parents=True)
    (site / "own").mkdir()
    (site / "own" / "__init__.py").touch()
    (site / "whole").symlink_to(store / "whole")
    (site / "by_file" / "__init__.py").symlink_to(store / "by_file" / "__init__.py")
    found = set(confinement._linked_packages(str(site)))
    assert found == {os.path.realpath(store / name) for name in ("whole", "by_file")}


@pytest.mark.slow
def test_a_row_of_as_many_operators_as_the_gate_lets_through_is_no_end_of_the_stack(tmp_path):
    import torch

    class Row(torch.nn.Module):
        def forward(self, x):
            for _ in range(11_900):
                x = torch.relu(x)
            return x.mean([2, 3])

    path = tmp_path / "row.pt"
    torch.jit.save(torch.jit.trace(Row(), torch.rand(2, 5, 8, 8), check_trace=False), path)
    command = [sys.executable, "-m", "wiper_cli.main", "inspect", os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "signal" not in done.stdout
    assert (done.returncode, "TorchScript" in done.stdout) == (0, True), done.stdout
