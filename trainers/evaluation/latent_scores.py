"""The quality of a bundle's latents: how well a linear probe reads the class, and how many dimensions are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engines.session import Session
from trainers.evaluation.active_units import active_units
from trainers.evaluation.linear_probe import probe_accuracy
from trainers.evaluation.patterns import Evidence, fuse_all

Labels = npt.NDArray[np.int64]


def score_latents(
    session: Session, training: tuple[Evidence, Labels], measured: tuple[Evidence, Labels]
) -> dict[str, Any]:
    """Latent accuracy and active units of every modality's latent, inferred from that modality alone, and from all.

    Args:
        session: an open bundle or engine.
        training: evidence and labels of the training split, for the linear probes.
        measured: evidence and labels of the split that is measured.

    Returns:
        ``latent_accuracy``: modality -> accuracy, and ``all``: of the latents side by side with all sensors present
        (of the one latent, where it is shared); ``active_units``: modality -> ``{"active", "size"}``.
    """
    names = session.manifest.modality_names
    accuracies, units = {}, {}
    for name in names:
        alone = tuple(int(n == name) for n in names)
        train, test = (fuse_all(session, e, alone).latents[name] for e in (training[0], measured[0]))
        accuracies[name] = probe_accuracy(train, training[1], test, measured[1])
        units[name] = {"active": active_units(test), "size": test.shape[1]}
    train, test = (_all_latents(session, e) for e in (training[0], measured[0]))
    accuracies["all"] = probe_accuracy(train, training[1], test, measured[1])
    return {"latent_accuracy": accuracies, "active_units": units}


def _all_latents(session: Session, evidence: Evidence) -> npt.NDArray[np.float32]:
    names = session.manifest.modality_names
    latents = fuse_all(session, evidence, (1,) * len(names)).latents
    first = latents[names[0]]
    if all(of.shape == first.shape and np.array_equal(of, first) for of in latents.values()):
        return first
    return np.concatenate([latents[n] for n in names], axis=1)
