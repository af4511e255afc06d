"""What is compared: every engine that can be built and run here, and PyTorch; and why the others cannot take part."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.backends.availability import backend_status
from engines.bundle import Manifest, load_manifest
from engines.compiling.compile import compile_bundle
from engines.engine import load_engine
from engines.errors import EngineError
from engines.opening import open_session
from engines.session import Session
from engines.targets import Target, load_target, overridden, shipped_targets

REFERENCE = "onnxruntime"
PYTORCH = ("pytorch-eager", "pytorch-compiled")


@dataclass(frozen=True)
class Contender:
    """One way to run the bundle.

    Attributes:
        name: backend, then provider and precision where they are not the usual ones.
        device: ``cpu`` or ``gpu``.
        precision: of its products.
        session: open, on the number of threads that was asked for.
        parity: how well it agrees with the golden values, where it is an engine.
        engine: its folder; None for PyTorch.
    """

    name: str
    device: str
    precision: str
    session: Session
    parity: dict[str, Any] | None = None
    engine: Path | None = None


@dataclass
class Field:
    """The contenders that take part, and name -> why not of the others."""

    present: list[Contender] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Close every session."""
        for contender in self.present:
            contender.session.close()


def gather(
    bundle: Path,
    checkpoint: Path | None,
    targets: Sequence[str],
    *,
    threads: int,
    largest_batch: int,
    without: Sequence[str] = (),
    say: Callable[[str], None] = lambda what: None,
) -> Field:
    """Compile the bundle for the targets, open everything that runs here, and note why the rest does not.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from; None leaves PyTorch out.
        targets: names or files; empty: every shipped target, and the CPU in int8. ``cpu`` always takes part.
        threads: for the operators of one graph, the same for all.
        largest_batch: that will be measured; engines with a profile for more than one row are built for this many.
        without: names of contenders to leave out.
        say: told what is being prepared.

    Raises:
        BundleError: the bundle is broken.
        TargetError: a named target cannot be used.
        CompileError: the CPU engine cannot be built, with which all others are compared.
    """
    manifest = load_manifest(bundle)
    found = Field()
    try:
        for target in wanted_targets(targets, largest_batch):
            name = contender_name(target)
            if name in without and name != REFERENCE:
                found.absent[name] = "left out as asked"
                continue
            if name in found.absent or name in {c.name for c in found.present}:
                name = f"{name} ({target.name})"
            say(f"compiling {name}")
            try:
                found.present.append(_engine(name, bundle, target, threads))
            except EngineError as e:
                if name == REFERENCE:
                    raise
                found.absent[name] = str(e)
        for name in PYTORCH:
            if reason := _why_no_pytorch(name, checkpoint, without):
                found.absent[name] = reason
                continue
            say(f"opening {name}")
            _add_pytorch(found, name, checkpoint, manifest, threads)
    except BaseException:
        found.close()
        raise
    return found


def wanted_targets(names: Sequence[str], largest_batch: int) -> list[Target]:
    """The CPU first, then the named targets, or every shipped one and the CPU in int8."""
    cpu = load_target("cpu")
    chosen = [load_target(n) for n in (names or shipped_targets())]
    if not names and not any(t.backend == "onnxruntime" and t.precision == "int8" for t in chosen):
        chosen.append(overridden(cpu, precision="int8"))
    return [cpu, *(_for_batch(t, largest_batch) for t in chosen if t != cpu)]


def _for_batch(target: Target, rows: int) -> Target:
    """The target for this many rows, unless it takes any number or is meant for exactly one."""
    if target.batch is None or not 1 < target.batch.maximum < rows:
        return target
    return overridden(target, batch=str(rows))


def contender_name(target: Target) -> str:
    """``onnxruntime``, ``onnxruntime-int8``, ``tensorrt-rtx-fp16``, ..."""
    provider = "-cuda" if target.provider == "cuda" else ""
    precision = "" if target.precision == "fp32" else f"-{target.precision}"
    return f"{target.backend}{provider}{precision}"


def _engine(name: str, bundle: Path, target: Target, threads: int) -> Contender:
    """Compile for a target and open the engine, if the backend runs here: building takes minutes."""
    status = backend_status(target.backend, target.provider)
    if not status.can_run:
        raise EngineError(status.reason)
    folder = compile_bundle(bundle, target)
    engine, _ = load_engine(folder)
    on_gpu = target.backend != "onnxruntime" or target.provider == "cuda"
    return Contender(
        name=name,
        device="gpu" if on_gpu else "cpu",
        precision=target.precision,
        session=open_session(folder, threads=threads),
        parity=engine.parity.model_dump(mode="json"),
        engine=folder,
    )


def _add_pytorch(found: Field, name: str, checkpoint: Path | None, manifest: Manifest, threads: int) -> None:
    """Open PyTorch on the checkpoint, or note why that is not possible."""
    # Imported here: PyTorch is not part of the base install.
    from runtime.rig import RigError
    from trainers.checkpoint import CheckpointError
    from trainers.torch_sessions import open_torch_session

    assert checkpoint is not None
    compiled = name == "pytorch-compiled"
    try:
        session = open_torch_session(checkpoint, manifest, compiled=compiled, threads=threads)
    except (CheckpointError, RigError) as e:
        found.absent[name] = str(e)
        return
    found.present.append(Contender(name, "cpu", "fp32", session))


def _why_no_pytorch(name: str, checkpoint: Path | None, without: Sequence[str]) -> str:
    if name in without:
        return "left out as asked"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; run: pip install 'afterimage[train]'"
    if checkpoint is None:
        return "there is no checkpoint beside the bundle; give the folder of a training run"
    return ""
