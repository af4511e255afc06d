"""Front ends, encoder trunks and decoders, one file per kind of sensor."""

from trainers.modalities.build import NETWORKS, build_modality
from trainers.modalities.network import ModalityNetwork, WindowSpec

__all__ = ["NETWORKS", "ModalityNetwork", "WindowSpec", "build_modality"]
