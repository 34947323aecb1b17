"""What the child gives up before a model file is opened: other files, writing, programs, network, other processes.

Whoever opens an untrusted model runs its code (TorchScript) or code that may have faults. The child therefore binds
itself, without root and without a helper program, by means that it cannot undo. :func:`enter` comes first, while the
process has one thread: Landlock binds the calling thread and those that it starts. Then the libraries are imported,
whose files stay readable. :func:`seal` comes last, for all threads, and only then the model is read. Every layer
says whether it holds.

Linux on x86-64 and aarch64; elsewhere every layer reports that it is missing. Sources: prctl(2), capabilities(7),
landlock(7) and the kernel's userspace-api/landlock, seccomp(2), syscalls(2). Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import glob
from typing import Any, Literal, NamedTuple

#: What ``--isolation`` takes.
Mode = Literal["auto", "require", "off"]


@dataclass(frozen=True)
class Layer:
    """One means of confinement. ``detail``: how it holds, else why it does not."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Isolation:
    """What separated the model from the rest of the machine: the report's ``isolation``."""

    layers: tuple[Layer, ...] = ()

    @property
    def missing(self) -> list[Layer]:
        return [layer for layer in self.layers if not layer.holds]

    @property
    def confined(self) -> bool:
        """Whether every layer holds."""
        return bool(self.layers) and not self.missing

    @property
    def note(self) -> str:
        """One sentence for people."""
        if not self.layers:
            return "The model was not opened."
        if self.confined:
            return (
                "The process that opened the model could read the interpreter, its libraries and what it was given, "
                "write nothing, start nothing, and reach neither the network nor other processes."
            )
        return "Missing: " + "; ".join(f"{layer.name} ({layer.detail})" for layer in self.missing) + "."

    def as_dict(self) -> dict[str, Any]:
        return {
            "process": "child" if self.layers else "none",
            "confined": self.confined,
            "note": self.note,
            "layers": [asdict(layer) for layer in self.layers],
        }


class Bounds(NamedTuple):
    """Most that a process may take that computes with bytes alone: ``memory``, bytes of address space, and
    ``seconds`` of processor time."""

    memory: int
    seconds: int


@dataclass(frozen=True)
class Terms:
    """What the parent asks of the child: its command line, since it comes before everything else. ``read``: the
    paths that the job names. ``device``: as ``--device``. ``training``: whether optimisers will be used. ``bounds``:
    of a process that opens no model, and imports no torch."""

    mode: Mode = "auto"
    read: tuple[str, ...] = ()
    device: str = "cpu"
    training: bool = False
    bounds: Bounds | None = None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Terms:
        """What :meth:`__str__` wrote."""
        said = json.loads(text)
        bounds = Bounds(*said["bounds"]) if said["bounds"] else None
        return cls(**{**said, "read": tuple(said["read"]), "bounds": bounds})

    @property
    def cuda(self) -> bool:
        """Whether a GPU may be used, which needs its device nodes and far more system calls."""
        return self.device != "cpu" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))


def enter(terms: Terms) -> list[Layer]:
    """Binds the process to its parent's life and to the files it may read; for a process with one thread."""
    layers = [_layer("pdeathsig", _die_with_parent)]
    if terms.mode == "off":
        return [*layers, Layer("confinement", False, "--isolation off")]
    if not terms.bounds:
        platform.platform()  # asks another program, and remembers
    return [*layers, _layer("no_new_privs", _drop_privileges), _layer("landlock", lambda: _landlock(terms))]


def seal(terms: Terms) -> list[Layer]:
    """Limits, and the filter of system calls for all threads. Bounds hold in every mode."""
    bounded = [_layer("bounds", lambda: _bounds(*terms.bounds or ()))] if terms.bounds else []
    if terms.mode == "off":
        return bounded
    if terms.cuda:
        why = "a GPU's driver needs too many system calls; --device cpu has this layer"
        return [_layer("rlimits", _limits), Layer("seccomp", False, why)]
    return [*bounded, _layer("rlimits", _limits), _layer("seccomp", _seccomp)]


def _layer(name: str, apply: Callable[[], str]) -> Layer:
    try:
        return Layer(name, True, apply())
    except ImportError:
        return Layer(name, False, f"not on {sys.platform}")
    except (OSError, ValueError) as error:
        return Layer(name, False, getattr(error, "strerror", None) or str(error))


# Calls into the kernel.

_MACHINES = ("x86_64", "aarch64")
#: Numbers of the calls made here: the same everywhere, or one for each of the machines.
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "capset": (126, 91), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip


def _call(name: str, *arguments: int | bytes | None) -> int:
    """A system call, or ``prctl``; raises OSError."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"not on {sys.platform}, {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if name == "prctl":
        outcome = libc.prctl(*values, *[ctypes.c_long(0)] * (5 - len(values)))
    else:
        libc.syscall.restype = ctypes.c_long
        outcome = libc.syscall(ctypes.c_long(_NUMBERS[name][_MACHINES.index(machine)]), *values)
    if outcome < 0:
        code = ctypes.get_errno()
        absent = code in (errno.ENOSYS, errno.EOPNOTSUPP)
        raise OSError(code, "not in this kernel" if absent else os.strerror(code))
    return int(outcome)


def _die_with_parent() -> str:
    """The kernel kills this process when the thread that started it ends, whatever holds the interpreter's lock.

    A parent that was gone before this call is noticed by reading the job from it.
    """
    _call("prctl", 1, 9)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")  # where memory runs out all the same, this process is the one to go
    return "ends with its parent"


#: CAP_DAC_READ_SEARCH: root may be given files of other users to read.
_KEPT = 1 << 2


def _drop_privileges() -> str:
    """Nothing that is started gains rights; root keeps the right to read, where Landlock lets it."""
    _call("prctl", 38, 1)
    held = next(line for line in _read("/proc/self/status").splitlines() if line.startswith("CapPrm"))
    kept = int(held.split()[1], 16) & _KEPT
    _call("capset", struct.pack("<Ii", 0x20080522, 0), struct.pack("<6I", kept, kept, 0, 0, 0, 0))
    return "none to gain" + (", all dropped but reading" if kept else "")


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123
        return file.read()


# Files: Landlock.

#: Rights by the version of the interface that brought them: on files, on the network, on processes outside.
_RIGHTS = (
    (1, 0x1FFF, 0, 0),
    (2, 0x2000, 0, 0),
    (3, 0x4000, 0, 0),
    (4, 0, 3, 0),
    (5, 0x8000, 0, 0),
    (6, 0, 0, 3),
)
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
#: Rights that a rule on something other than a folder may give.
_ON_FILES = 0xC007

#: The variables that a child is given, by name or by how they begin: nobody's keys and tokens are among them.
_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "WIPER_PLUGIN",
)
_PREFIXES = (
    "LC_", "PYTHON", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "ATEN_", "TORCH_", "PYTORCH_",
    "ORT_", "MALLOC_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "HIP_", "HSA_", "ROCR_",
)  # fmt: skip


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What of an environment a confined child needs."""
    return {name: text for name, text in given.items() if name in _VARIABLES or name.startswith(_PREFIXES)}


#: Beside the interpreter: libraries, and what numerical libraries ask about the machine.
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/null", "/dev/urandom",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system",
)  # fmt: skip


def _landlock(terms: Terms) -> str:
    version = _call("landlock_create_ruleset", None, 0, 1)
    files, network, outside = (sum(row[i] for row in _RIGHTS if version >= row[0]) for i in (1, 2, 3))
    reading = _READ_FILE | _READ_FOLDER
    if terms.cuda:
        files &= ~reading
        granted = [(path, files) for path in _cuda_nodes()]
    else:
        granted = [(path, reading) for path in (*_SYSTEM, *_interpreter(), *terms.read)]
        granted += _linked(terms.read)
    attributes = struct.pack("<QQQ", files, network, outside)
    ruleset = _call("landlock_create_ruleset", attributes, len(attributes), 0)
    for path, rights in granted:
        with suppress(OSError):  # what is not there, or cannot be opened, is not granted
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights if os.path.isdir(path) else rights & _ON_FILES  # noqa: PTH112
            try:
                _call("landlock_add_rule", ruleset, 1, struct.pack("<Qi", allowed, place), 0)
            finally:
                os.close(place)
    _call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)
    return f"version {version}" + (", writing and the network only" if terms.cuda else "")


def _interpreter() -> Iterator[str]:
    """Where the interpreter finds modules and libraries."""
    for folder in filter(None, sys.path):
        yield folder
        yield from _linked_packages(folder)
    if sys.pycache_prefix:
        yield sys.pycache_prefix
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}:
        yield from (os.path.join(prefix, name) for name in ("lib", "lib64"))  # noqa: PTH118
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))


def _linked_packages(folder: str) -> Iterator[str]:
    """Where installers keep packages that ``folder`` only links to, whole or file by file."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            first = os.path.join(entry.path, "__init__.py")  # noqa: PTH118
            if entry.is_symlink():
                yield os.path.realpath(entry.path)
            elif os.path.islink(first):  # noqa: PTH114
                yield os.path.dirname(os.path.realpath(first))  # noqa: PTH120


def _cuda_nodes() -> Iterator[str]:
    for pattern in ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/null", "/proc/self/task"):
        yield from glob(pattern)  # noqa: PTH207


#: How the pictures begin that :mod:`wiper_cli.images.decode` reads.
_PICTURES = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF",
    b"II*\0", b"II+\0", b"MM\0*", b"MM\0+", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51",
    *(b"P%d" % kind for kind in range(1, 8)),
)  # fmt: skip


#: Most entries of folders that links lead to, most of all, and how deep folders lie in each other, as in folders of
#: images (:mod:`wiper_cli.images.listing`): after that nothing is granted.
_MOST_LINKED, _MOST, _DEEPEST = 100_000, 4_000_000, 32


def _linked(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Rights for what links below ``paths`` lead to, since Landlock looks at where a file lies and not at how it was
    reached: pictures and the names in folders, so that a link in a folder of images opens nothing else."""
    waiting = [(os.path.realpath(path), False, 0) for path in paths if os.path.isdir(path)]  # noqa: PTH112
    seen, linked, count = set[str](), 0, 0
    for folder, outside, depth in waiting:  # which grows: the shallowest first
        if folder in seen or depth > _DEEPEST or (outside and folder.startswith(("/proc", "/sys", "/dev"))):
            continue
        seen.add(folder)
        if outside:
            yield folder, _READ_FOLDER
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                link = entry.is_symlink()
                linked, count = linked + (link or outside), count + 1
                if linked > _MOST_LINKED or count > _MOST:
                    return
                if entry.is_dir():
                    # What is no link lies where its folder lies; to ask of each takes time with the square of depth.
                    place = os.path.realpath(entry.path) if link else entry.path
                    waiting.append((place, link or outside, depth + 1))
                elif (link or outside) and entry.is_file() and _is_picture(entry.path):
                    yield entry.path, _READ_FILE


def _is_picture(path: str) -> bool:
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(file, 8).startswith(_PICTURES)
        finally:
            os.close(file)
    return False


# Limits.


def _limits() -> str:
    """No core, no growing file, few descriptors. Memory and threads are the parent's to watch."""
    # Torch goes through a graph by recursion: the usual 8 MiB end at some 11,000 operators in a row.
    _limit(CORE=0, FSIZE=0, MEMLOCK=0, NOFILE=512, STACK=_STACK)
    return "no core, no file, 512 descriptors"


#: Bytes that the stack may grow to; Linux leaves twice that free below it.
_STACK = 64 << 20


def _bounds(memory: int, seconds: int) -> str:
    """Torch reserves far more memory than it uses; a process without it can be held to what it reserves."""
    _limit(CPU=seconds, spare=5)
    if sys.platform != "linux":  # elsewhere the limit is not kept
        raise OSError(errno.ENOSYS, f"processor time alone on {sys.platform}")
    _limit(AS=memory)
    return f"{memory >> 20} MiB of memory, {seconds} s of processor time"


def _limit(spare: int = 0, **most: int) -> None:
    """``spare``: from the soft limit, which tells by a signal what was crossed, to the hard one, which kills."""
    import resource

    for name, value in most.items():
        which = getattr(resource, f"RLIMIT_{name}")
        held = resource.getrlimit(which)[1]
        hard = value + spare if held == resource.RLIM_INFINITY else min(value + spare, held)
        resource.setrlimit(which, (min(value, hard), hard))


# System calls: seccomp.

#: Calls that are answered whatever they ask: name, number on x86-64, on aarch64 ("-": not there).
_ALLOWED = """
    read 0 63 | write 1 64 | close 3 57 | stat 4 - | fstat 5 80 | lstat 6 - | poll 7 - | ppoll 271 73 | lseek 8 62
    mmap 9 222 | mprotect 10 226 | munmap 11 215 | brk 12 214 | mremap 25 216 | madvise 28 233 | membarrier 324 283
    rt_sigaction 13 134 | rt_sigprocmask 14 135 | rt_sigreturn 15 139 | sigaltstack 131 132 | restart_syscall 219 128
    pread64 17 67 | readv 19 65 | writev 20 66 | access 21 - | dup 32 23 | readlink 89 - | getcwd 79 17
    newfstatat 262 79 | readlinkat 267 78 | faccessat 269 48 | faccessat2 439 439 | statx 332 291 | getdents64 217 61
    sched_yield 24 124 | nanosleep 35 101 | clock_nanosleep 230 115 | clock_gettime 228 113 | clock_getres 229 114
    gettimeofday 96 169 | time 201 - | times 100 153 | getrusage 98 165 | sysinfo 99 179 | uname 63 160
    getpid 39 172 | gettid 186 178 | getuid 102 174 | geteuid 107 175 | getgid 104 176 | getegid 108 177
    getppid 110 173 | getrlimit 97 163 | getcpu 309 168 | sched_getaffinity 204 123 | getrandom 318 278
    futex 202 98 | set_robust_list 273 99 | rseq 334 293 | arch_prctl 158 - | exit 60 93 | exit_group 231 94
"""

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _BITS, _FROM, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = _ERRNO | errno.EPERM


class _Judged(NamedTuple):
    """A call that one argument decides: the answer where a value fits it, and where none does."""

    x86_64: int | None
    aarch64: int | None
    argument: int
    test: int
    values: tuple[int, ...]
    fits: int
    otherwise: int


#: Stands for the number of the process itself.
_SELF = -1
#: Opening a file to write ends the process: TorchScript swallows the error, and the attempt would go unseen.
_JUDGED = (
    _Judged(2, None, 1, _BITS, (_WRITING,), _KILL, _ALLOW),  # open
    _Judged(257, 56, 2, _BITS, (_WRITING,), _KILL, _ALLOW),  # openat
    _Judged(56, 220, 0, _BITS, (0x10000,), _ALLOW, _REFUSED),  # clone: threads
    _Judged(72, 25, 1, _EQUAL, (0, 1, 2, 3, 1030), _ALLOW, _REFUSED),  # fcntl: duplicate, look; no signals
    _Judged(157, 167, 0, _EQUAL, (15, 0x53564D41), _ALLOW, _REFUSED),  # prctl: names of threads, of memory
    _Judged(234, 131, 0, _EQUAL, (_SELF,), _ALLOW, _REFUSED),  # tgkill
    _Judged(302, 261, 0, _EQUAL, (0,), _ALLOW, _REFUSED),  # prlimit64: its own
    _Judged(203, 122, 0, _EQUAL, (0,), _ALLOW, _REFUSED),  # sched_setaffinity: its own
    _Judged(16, 29, 0, _EQUAL, (), _ALLOW, _ERRNO | errno.ENOTTY),  # ioctl: nothing here is a terminal
)
#: Numbers from here on are so new that libraries ask for them and do without where the kernel has none. Those of
#: the x32 interface lie far above.
_NEW = 424


def program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter for a process ``pid``, as instructions of classic BPF: code, jump if true, if false, operand."""
    column = _MACHINES.index(machine)
    architecture = (0xC000003E, 0xC00000B7)[column]
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for call in _JUDGED:
        number = (call.x86_64, call.aarch64)[column]
        if number is None:
            continue
        values = [pid if value == _SELF else value for value in call.values]
        body = [
            (_LOAD, 0, 0, 16 + 8 * call.argument),
            *((call.test, len(values) - i, 0, value) for i, value in enumerate(values)),
            (_RETURN, 0, 0, call.otherwise),
            (_RETURN, 0, 0, call.fits),
        ]
        steps += [(_EQUAL, 0, len(body), number), *body]
    for row in _ALLOWED.replace("\n", "|").split("|"):
        if row.strip() and (text := row.split()[1 + column]) != "-":
            steps += [(_EQUAL, 0, 1, int(text)), (_RETURN, 0, 0, _ALLOW)]
    return [*steps, (_FROM, 0, 1, _NEW), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS), (_RETURN, 0, 0, _REFUSED)]


def _seccomp() -> str:
    steps = program(platform.machine(), os.getpid())
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    # For all threads, and without the kernel's costly guard against a side channel within the process.
    if _call("seccomp", 1, 1 | 4, struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(buffer))):
        raise OSError(errno.EBUSY, "a thread could not be bound")
    return f"{len(steps)} instructions, all threads"


def main() -> None:
    """Binds itself as a child does and prints the layers: what ``wiper doctor`` shows."""
    terms = Terms()
    print(json.dumps([asdict(layer) for layer in [*enter(terms), *seal(terms)]]))


if __name__ == "__main__":
    main()
