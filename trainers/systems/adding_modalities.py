"""Adding a modality to a trained associator network: one associator pair is trained, all else stays as it is.

The paper's scalability (section 4.7): "a new modality can be added via training of only a new associator between an
existing auto-encoder and the new auto-encoder"; the others reach it by cascades.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from trainers.modalities.network import ModalityNetwork
from trainers.systems.associators import Associators
from trainers.systems.associators_config import AssociatorsConfig


def add_modality(
    system: Associators, name: str, new: ModalityNetwork | Associators, pairs: Sequence[tuple[str, str]]
) -> Associators:
    """A larger network: the trained one, one more modality, and fresh associators along the given pairs.

    Everything of ``system`` is copied and frozen: what it encodes, associates, decodes and decides while the new
    modality is absent stays equal to the bit, as do the paths between its modalities. The new modality votes on the
    class only where it is present. Train the result with the ordinary loop: ``intra`` then trains the new autoencoder
    alone (and is left out if ``new`` is a trained one), ``cross`` the new associators, ``classify`` its classifier::

        larger = add_modality(system, "eeg", EegNetwork(spec, latent_size=16), pairs=[("eeg", "audio")])
        config = config.model_copy(update={"system": larger.config, "modalities": ...})
        Trainer(larger, sampler, validation, config, folder).run()

    Args:
        system: trained; left as it is.
        name: of the new modality; it comes last in the mask.
        new: its network with fresh weights, or an :class:`Associators` of this modality alone that was trained.
        pairs: of the new modality and an existing one each, joined both ways; one is enough.

    Returns:
        The larger network, its new weights drawn from torch's global generator. Its ``config`` says what is kept.

    Raises:
        ValueError: a name that is taken, pairs that do not join the new modality with existing ones, another number
            of classes.
    """
    _check(system, name, new, pairs)
    networks = {n: deepcopy(system.network(n)) for n in system.names}
    networks[name] = deepcopy(new.network(name) if isinstance(new, Associators) else new)
    larger = Associators(networks, system.classes, _larger_config(system, name, new, pairs))
    state = larger.state_dict()
    for part in (system, new) if isinstance(new, Associators) else (system,):
        state |= {k: v.clone() for k, v in part.state_dict().items() if k != "reliability"}
    state["reliability"] = torch.cat([system.reliability, torch.ones_like(system.reliability[:1])])
    larger.load_state_dict(state)
    larger.edge_cost |= system.edge_cost
    larger.kept_paths = dict(system.paths)
    larger.paths |= system.paths
    return larger.train(system.training)


def _check(
    system: Associators, name: str, new: ModalityNetwork | Associators, pairs: Sequence[tuple[str, str]]
) -> None:
    if name in system.names:
        raise ValueError(f"the network has a modality {name!r} already, beside {list(system.names)}")
    wrong = [p for p in pairs if name not in p or not set(p) - {name} <= set(system.names) or p[0] == p[1]]
    if wrong or not pairs:
        raise ValueError(
            f"pairs must join {name!r} with some of {list(system.names)}, got {wrong or 'none at all'}"
        )
    if isinstance(new, Associators) and (new.names != (name,) or new.classes != system.classes):
        raise ValueError(
            f"expected a network of {name!r} alone with {system.classes} classes, got one of {list(new.names)} with "
            f"{new.classes}"
        )


def _larger_config(
    system: Associators, name: str, new: ModalityNetwork | Associators, pairs: Sequence[tuple[str, str]]
) -> AssociatorsConfig:
    old = tuple(dict.fromkeys((min(pair), max(pair)) for pair in system.pairs))
    trained = (name,) if isinstance(new, Associators) else ()
    size = (new.network(name) if isinstance(new, Associators) else new).latent_size
    changes = {
        "latent_sizes": {n: system.latent_size(n) for n in system.names} | {name: size},
        "pairs": (*old, *pairs),
        "added": (*system.config.added, name),
        "kept_modalities": (*system.names, *trained),
        "kept_pairs": old,
    }
    return AssociatorsConfig.model_validate(system.config.model_dump() | changes)
