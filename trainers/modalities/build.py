"""One place that knows which network reads which kind of sensor."""

from __future__ import annotations

from trainers.modalities.audio import AudioNetwork
from trainers.modalities.depth import DepthNetwork
from trainers.modalities.eeg import EegNetwork
from trainers.modalities.network import ModalityNetwork, WindowSpec
from trainers.modalities.rgb import RgbNetwork
from trainers.modalities.signal import SignalNetwork

NETWORKS: dict[str, type[ModalityNetwork]] = {
    "rgb": RgbNetwork,
    "depth": DepthNetwork,
    "audio": AudioNetwork,
    "eeg": EegNetwork,
    "signal": SignalNetwork,
}


def build_modality(spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> ModalityNetwork:
    """Build the network for a sensor by its kind.

    Args:
        spec: what the sensor delivers and how long a window is.
        latent_size: size of the latent that the decoder takes.
        hidden_size: size of what the trunk returns.

    Raises:
        ValueError: a kind without a network, or a shape, rate or window that the network cannot take.
    """
    if spec.kind not in NETWORKS:
        raise ValueError(
            f"modality {spec.name!r}: no network for kind {spec.kind!r}; there is {sorted(NETWORKS)}"
        )
    return NETWORKS[spec.kind](spec, latent_size, hidden_size)
