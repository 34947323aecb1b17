"""What memory this process has taken, and whether it ran out."""

import sys
from contextlib import suppress
from pathlib import Path


def peak_resident() -> int:
    """Largest resident size in bytes since the process began, or since Linux was asked to count anew; 0 on systems that
    do not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def ran_out(error: BaseException) -> bool:
    """Whether ``error`` is Python's, the CPU's or CUDA's word for too little memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said
