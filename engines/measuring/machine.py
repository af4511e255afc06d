"""The machine: processor, vector instructions, memory; for reports and ``afterimage doctor``."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# What decides whether small integer products can be fast: 256-bit and 512-bit vectors, and dot products of int8.
_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX int8": ("amx_int8",),
    "NEON dot product": ("asimddp",),
    "NEON int8 matrix": ("i8mm",),
}


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, CPU features (None where they are unknown), memory, system."""
    cpu = _cpuinfo()
    words = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "features": {n: any(w in words for w in any_of) for n, any_of in _FEATURES.items()}
        if words
        else None,
        "memory_mib": _memory_mib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def int8_note(features: dict[str, bool] | None) -> str:
    """What the CPU's features mean for int8, in one line."""
    if features is None:
        return "int8: this system does not say what its CPU can do; measure with `afterimage bench engines`"
    if any(features[n] for n in ("VNNI", "AMX int8", "NEON dot product", "NEON int8 matrix")):
        return "int8: the CPU has dot products of int8, so int8 engines can be faster than fp32"
    return "int8: the CPU has no dot products of int8, so int8 engines gain little or nothing over fp32"


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty on systems without it."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_mib() -> int | None:
    """Physical memory; None where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return None
