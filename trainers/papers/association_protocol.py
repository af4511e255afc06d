"""The associator paper's protocol: a classifier of real data names what cross-generated samples show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from trainers.evaluation.diversity import relative_diversity
from trainers.fusion.association_paths import Path as Route
from trainers.papers.association import (
    Domain,
    Judgement,
    Pairing,
    autoencoder,
    generate,
    join,
    judgement,
    observations,
)
from trainers.papers.association_figures import draw_routes, draw_shares, save_examples
from trainers.papers.protocol import Budget, Cell, Metrics, Protocol, Report
from trainers.systems.associators import Associators

PAIRINGS = {
    **{f"{percent} %": Pairing(percent / 100) for percent in (100, 50, 20, 10, 5, 1)},
    "5 % of rows": Pairing(0.05, "rows"),
}
"""Arm -> its pairs; shares of pairs as in figure 6 of the paper."""

EQUATION_7 = "100 %, eq. 7"
"""Arm with all pairs whose associators learn by the paper's own objective."""


@dataclass(frozen=True)
class Effort:
    """Training effort at a budget.

    Attributes:
        autoencoder: factor on the steps of every autoencoder.
        associators: steps of every addition.
        judge: steps of every judge.
        rows: at most so many rows of training, and of validation and test; None: all.
    """

    autoencoder: float
    associators: int
    judge: int
    rows: tuple[int, int] | None = None


EFFORTS: Mapping[Budget, Effort] = {
    "smoke": Effort(0.02, 15, 40, (400, 200)),
    "small": Effort(1.0, 1500, 500),
    "full": Effort(8.0, 20000, 1200),
}


class AssociationProtocol(Protocol):
    """Autoencoders on all rows, associators on pairs alone, one addition after the other.

    Attributes:
        first: modality that the network begins with.
        additions: new modality -> modalities that it is paired with, in order.
        routes: modalities along each path that is measured.
    """

    first: str
    additions: ClassVar[Mapping[str, tuple[str, ...]]]
    routes: ClassVar[tuple[Route, ...]]

    @abstractmethod
    def domains(self, data: Path, factor: float) -> dict[str, Domain]:
        """The modalities; autoencoders get ``factor`` times their steps."""

    def arms(self, budget: Budget) -> tuple[str, ...]:
        """Shares of pairs; the largest and 5 % at ``smoke``."""
        return ("100 %", "5 %") if budget == "smoke" else tuple(PAIRINGS)

    def run(self, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report) -> Metrics:
        """Train the network of one share, and judge its samples along every route."""
        return self.measure(arm, seed, EFFORTS[budget], data, folder, report, "test")

    def measure(
        self, arm: str, seed: int, effort: Effort, data: Path, folder: Path, report: Report, split: str
    ) -> Metrics:
        """As :meth:`run`, on ``test``, or on ``validation`` to choose settings."""
        shared = folder.parents[2] / "shared"
        domains = self.domains(data, effort.autoencoder)
        if effort.rows is not None:
            domains = {name: d.subsample(*effort.rows) for name, d in domains.items()}
        system = self._network(domains, arm, seed, effort.associators, folder, shared, report)
        report("judge", 0, 1)
        judges = {name: judgement(d, shared, effort.judge) for name, d in domains.items()}
        metrics = paired_rows(_pairing(arm).moments(tuple(domains.values()), seed), domains)
        for route in self.routes:
            metrics |= route_metrics(system, route, domains, judges, split, seed)
        for name, domain in domains.items():
            metrics |= ceilings(system, domain, judges[name], split)
        save_examples(folder / "examples.npz", system, self.routes, domains, split)
        return metrics

    def _network(
        self,
        domains: Mapping[str, Domain],
        arm: str,
        seed: int,
        steps: int,
        folder: Path,
        shared: Path,
        report: Report,
    ) -> Associators:
        single = {
            n: autoencoder(d, seed, folder / "autoencoders", shared / str(seed), report)
            for n, d in domains.items()
        }
        system = single[self.first]
        for name, partners in self.additions.items():
            system = join(
                system,
                single[name],
                [(name, partner) for partner in partners],
                domains,
                _pairing(arm),
                steps=steps,
                seed=seed,
                folder=folder,
                report=report,
                objective="reconstruction" if arm == EQUATION_7 else "latent",
            )
        return system

    def figures(self, cells: Sequence[Cell], folder: Path) -> list[Path]:
        """Accuracy against the share of pairs (figure 6), and examples of every route (figure 4)."""
        names = ["→".join(route) for route in self.routes]
        shares = {arm: pairing.share for arm, pairing in PAIRINGS.items() if pairing.of == "pairs"}
        drawn = [draw_shares(cells, names, shares, folder / "shares.png")]
        examples = folder / "cells" / "100-%" / "0" / "examples.npz"
        if examples.exists():
            drawn.append(draw_routes(examples, folder / "examples.png"))
        return drawn


def _pairing(arm: str) -> Pairing:
    return PAIRINGS["100 %" if arm == EQUATION_7 else arm]


def paired_rows(moments: npt.NDArray[np.int64], domains: Mapping[str, Domain]) -> Metrics:
    """Number of pairs, and percent of every modality's training rows that are in some pair."""
    found = {"pairs": float(len(moments))}
    for column, (name, domain) in enumerate(domains.items()):
        rows = len(np.unique(moments[:, column]))
        found[f"{name} rows in pairs"] = 100.0 * rows / len(domain.recordings.train)
    return found


def route_metrics(
    system: Associators,
    route: Route,
    domains: Mapping[str, Domain],
    judges: Mapping[str, Judgement],
    split: str,
    seed: int,
) -> Metrics:
    """Accuracy in percent of a route's generated means and draws, and the diversity of both.

    Args:
        system: trained.
        route: modalities along it.
        domains: by modality.
        judges: by modality.
        split: ``test`` or ``validation``.
        seed: of the draws.
    """
    source, target = domains[route[0]].recordings, domains[route[-1]]
    rows = getattr(source, split)
    wanted, name = source.labels[rows], "→".join(route)
    real_rows = getattr(target.recordings, split)
    real = observations(system.network(route[-1]), target.windows[real_rows]).numpy()
    found: Metrics = {}
    for kind, generator in (("", None), (" drawn", torch.Generator().manual_seed(seed))):
        made = generate(system, route, domains[route[0]].windows[rows], generator)
        found[name + kind] = 100 * float((judges[route[-1]](made) == wanted).mean())
        found[f"{name}{kind} diversity"] = 100 * relative_diversity(
            made.numpy(), wanted, real, target.recordings.labels[real_rows]
        )
    return found


def ceilings(system: Associators, domain: Domain, judge: Judgement, split: str) -> Metrics:
    """Accuracy in percent of the judge on measured windows (table 2, Rec) and on reconstructions (table 2, VAE)."""
    rows = getattr(domain.recordings, split)
    windows, truth = domain.windows[rows], domain.recordings.labels[rows]
    measured = judge(observations(system.network(domain.name), windows))
    rebuilt = judge(generate(system, (domain.name,), windows))
    return {
        f"{domain.name} measured": 100 * float((measured == truth).mean()),
        f"{domain.name} reconstructed": 100 * float(np.mean(rebuilt == truth)),
    }
