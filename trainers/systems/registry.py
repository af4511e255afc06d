"""The systems there are: a configuration and a class each, one line per system."""

from __future__ import annotations

from collections.abc import Mapping

from trainers.modalities.network import ModalityNetwork
from trainers.systems.associators import Associators
from trainers.systems.associators_config import AssociatorsConfig
from trainers.systems.base import System, SystemConfig
from trainers.systems.concatenation import Concatenation, ConcatenationConfig
from trainers.systems.dsml import Dsml, DsmlConfig
from trainers.systems.hmvae import Hmvae, HmvaeConfig
from trainers.systems.jmvae import Jmvae, JmvaeConfig
from trainers.systems.mmali import Mmali, MmaliConfig
from trainers.systems.mmvae import Mmvae, MmvaeConfig
from trainers.systems.mvae import Mvae, MvaeConfig
from trainers.systems.svae import Svae, SvaeConfig
from trainers.systems.vaevae import Vaevae, VaevaeConfig

SYSTEMS: tuple[tuple[type[SystemConfig], type[System]], ...] = (
    (SvaeConfig, Svae),
    (VaevaeConfig, Vaevae),
    (MvaeConfig, Mvae),
    (MmvaeConfig, Mmvae),
    (JmvaeConfig, Jmvae),
    (ConcatenationConfig, Concatenation),
    (AssociatorsConfig, Associators),
    (HmvaeConfig, Hmvae),
    (MmaliConfig, Mmali),
    (DsmlConfig, Dsml),
)


def make_system(networks: Mapping[str, ModalityNetwork], classes: int, config: SystemConfig) -> System:
    """The system of a configuration over given networks, with weights from torch's current seed.

    Raises:
        ValueError: sizes that do not fit the system.
    """
    found = dict(SYSTEMS)[type(config)]
    return found(networks, classes, config)  # type: ignore[call-arg]
