"""Rewrites a bundle's encoders and decoders in a target's precision, as far as the accuracy gate allows.

First, products are chosen by their graph's tolerance. If decisions then change more than the target allows, the
tolerance of the encoders is set to half the error of the worst one, again and again, until the gate passes. It passes
at the latest when all encoders are back in fp32, unless the bundle itself decides differently from PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from engines.bundle import (
    DECISIONS_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    TRAINING_WINDOWS_NAME,
    Manifest,
    presence_patterns,
)
from engines.compiling.accuracy_gate import DecisionChange, DecisionSet, decision_change
from engines.compiling.bundle_arrays import BundleArrays
from engines.compiling.parity import Golden
from engines.compiling.product_choice import GraphExamples, ProductChoice, ReducedGraph, tolerance
from engines.compiling.weight_products import UnoptimisedRunner
from engines.errors import CompileError
from engines.opening import load_session
from engines.session import Session
from engines.targets import Target


def reduced_graph_names(manifest: Manifest) -> tuple[str, ...]:
    """Graphs that precisions below fp32 rewrite: encoders and decoders.

    ``fuse`` is small and every decision depends on it; ``observe`` takes no part in decisions and should stay exact.
    """
    names = manifest.modality_names
    return (*(f"encode_{n}" for n in names), *(f"decode_{n}" for n in names))


def reduce_graphs(
    bundle: Path, manifest: Manifest, target: Target, report: Callable[[str], None]
) -> dict[str, ReducedGraph]:
    """Rewrite encoders and decoders for a target below fp32.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest.
        target: precision, backend, and how many decisions may change.
        report: called with the next step, once per graph and once before the gate.

    Returns:
        graph -> rewritten, for the graphs of :func:`reduced_graph_names`.

    Raises:
        BackendUnavailableError: onnx is not installed.
        BundleError: a file of the bundle is broken.
        CompileError: the bundle lacks a file that the precision needs, a graph cannot be rewritten, or decisions
            change too much even with all encoders in fp32.
    """
    decisions, examples = _inputs(bundle, manifest, target)
    choices = {}
    for graph in reduced_graph_names(manifest):
        report(f"{graph}: choosing products for {target.precision}")
        source = (bundle / f"{graph}.onnx").read_bytes()
        choices[graph] = ProductChoice(graph, source, target, examples[graph])
    report("decisions")
    allowance = tolerance(target)
    reduced = {graph: choice.within(allowance) for graph, choice in choices.items()}
    fuse = (bundle / "fuse.onnx").read_bytes()
    while above := emulated_change(manifest, reduced, fuse, decisions).above(target.decision_change):
        errors = [r.error for g, r in reduced.items() if g.startswith("encode_") and r.reduced]
        if not errors:
            raise CompileError(
                f"{target.precision}: decisions differ from PyTorch's in patterns {above}, where "
                f"{target.decision_change:.1%} is allowed, even with all encoders left in fp32; export the bundle "
                "again, or allow more with allowed_decision_change in a target file"
            )
        allowance = max(errors) / 2
        reduced |= {g: c.within(allowance) for g, c in choices.items() if g.startswith("encode_")}
    return reduced


def emulated_change(
    manifest: Manifest, reduced: Mapping[str, ReducedGraph], fuse: bytes, decisions: DecisionSet
) -> DecisionChange:
    """How many decisions change when ONNX Runtime on the CPU emulates the rounding of the rewritten graphs."""
    models = {g: r.emulation for g, r in reduced.items() if g.startswith("encode_")} | {"fuse": fuse}
    with Session(manifest, UnoptimisedRunner(models)) as session:
        return decision_change(session, decisions)


def _inputs(bundle: Path, manifest: Manifest, target: Target) -> tuple[DecisionSet, dict[str, GraphExamples]]:
    """The decision set, and examples for choosing each graph's products."""
    needed = (DECISIONS_NAME, TRAINING_WINDOWS_NAME) if target.precision == "int8" else (DECISIONS_NAME,)
    for name in needed:
        if name not in manifest.files:
            raise CompileError(
                f"{bundle / MANIFEST_NAME}: files lacks {name}, which precision {target.precision} needs; export the "
                "bundle again, or compile to fp32"
            )
    decisions = DecisionSet(bundle / DECISIONS_NAME, manifest)
    if target.precision == "int8":
        return decisions, _training_examples(bundle, manifest)
    golden = Golden(bundle / GOLDEN_NAME, manifest)
    cases = {graph: golden.case(graph) for graph in reduced_graph_names(manifest)}
    return decisions, {graph: GraphExamples(*case) for graph, case in cases.items() if case is not None}


def _training_examples(bundle: Path, manifest: Manifest) -> dict[str, GraphExamples]:
    """Training windows and their latents, with the outputs of the bundle's own graphs.

    Each window gives two latents: one with all modalities present, where values are largest, and one in a missing
    pattern.
    """
    windows = BundleArrays(bundle / TRAINING_WINDOWS_NAME, manifest).windows()
    names = manifest.modality_names
    patterns = np.array(list(presence_patterns(len(names), empty=True)), np.float32)
    rows = len(windows[names[0]])
    # Shuffled, because windows are ordered by class, and every pattern should get all classes.
    turns = np.random.default_rng(0).permutation(rows) % len(patterns)
    presence = np.concatenate([np.ones((rows, len(names)), np.float32), patterns[turns]])
    examples = {}
    with load_session(bundle, manifest, "onnxruntime") as session:
        evidence = {n: session.encode(n, windows[n]) for n in names}
        latents = session.fuse({n: np.tile(e, (2, 1)) for n, e in evidence.items()}, presence).latents
        for n in names:
            window = {"window": windows[n].astype(np.float32)}
            examples[f"encode_{n}"] = GraphExamples(window, {"evidence": evidence[n]})
            observation = session.decode(n, latents[n])
            examples[f"decode_{n}"] = GraphExamples({"latent": latents[n]}, {"observation": observation})
    return examples
