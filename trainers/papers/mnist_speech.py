"""Spoken and written digits, directly and through garments: the associator paper's audio scenarios and its cascade."""

from __future__ import annotations

from pathlib import Path

from trainers.papers.association import LATENT_SIZE, Domain
from trainers.papers.association_protocol import AssociationProtocol
from trainers.papers.fashion_mnist import NOTES, image_domains
from trainers.papers.spoken_digits import SpeechSpec, SpeechSpectrumNetwork, speech_spectra


class MnistSpeech(AssociationProtocol):
    """MNIST to speech and back, and from speech to MNIST through Fashion-MNIST."""

    name = "mnist-speech"
    title = "recognition of cross-generated digits and speech, by the share of pairs, direct and cascaded"
    reference = "Associators (arXiv 1905.12867), tables 1, 2 and 4, figure 6"
    published = {  # noqa: RUF012
        "associators on GSC, 100 %": {
            "speech→mnist": 88.66,
            "mnist→speech": 59.47,
            "speech→fashion": 77.84,
            "speech→fashion→mnist": 76.99,
            "fashion→mnist": 82.02,
            "mnist measured": 97.97,
            "mnist reconstructed": 96.12,
            "fashion measured": 89.22,
            "fashion reconstructed": 80.54,
            "speech measured": 88.65,
            "speech reconstructed": 81.93,
        },
        "JMVAE on GSC": {"speech→mnist": 62.31, "mnist→speech": 28.15, "speech→fashion": 51.23},
    }
    notes = (
        "Speech is the Free Spoken Digit Dataset (six speakers, 2400 recordings to train on, 300 of the same "
        "speakers to test) in the place of Google Speech Commands: easier than the paper's.",
        "Garments and digits are associated first; then speech is added by its own associators, everything before "
        "frozen to the bit.",
        *NOTES,
    )
    first = "mnist"
    additions = {"fashion": ("mnist",), "speech": ("mnist", "fashion")}  # noqa: RUF012
    routes = (
        ("speech", "mnist"),
        ("speech", "fashion", "mnist"),
        ("mnist", "speech"),
        ("speech", "fashion"),
        ("fashion", "mnist"),
    )

    def domains(self, data: Path, factor: float) -> dict[str, Domain]:
        """MNIST, Fashion-MNIST and spoken digits."""
        speech = Domain(
            "speech",
            speech_spectra(data),
            lambda: SpeechSpectrumNetwork(SpeechSpec(), LATENT_SIZE),
            round(2500 * factor),
            judged_as="audio",
        )
        return image_domains(data, factor) | {"speech": speech}
