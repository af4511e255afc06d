"""Garments and digits, associated by class number: the associator paper's first scenario."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainers.modalities.network import ModalityNetwork
from trainers.papers.association import LATENT_SIZE, Domain
from trainers.papers.association_protocol import EQUATION_7, AssociationProtocol
from trainers.papers.networks import GreyImageNetwork, ImageSpec
from trainers.papers.packs import fashion_mnist, mnist
from trainers.papers.protocol import Budget

NOTES = (
    "Autoencoders learn from all recordings, associators from pairs alone. Columns are shares of the pairs: at 100 % "
    "every MNIST training image (55000) has a partner of its class, each recording of the smaller sets as often as any "
    "other; 5 % are 2750 of these pairs. `5 % of rows`: only 5 % of every set's recordings have partners at all. "
    "`rows in pairs` says how many that are.",
    "Associators learn to match the latent of the partner (KL), in place of the paper's equation 7: with random "
    "partners that one gives a blurred mean of the class, which the classifier does not recognise (`fashion-mnist` has "
    "an arm with it and the same associators). Their last hidden layer is a soft choice among 64 prototypes, and they "
    "also learn to give back what the associator the other way made of a latent (weight 0.2), which is what they see "
    "in cascades.",
    "Figures are percent of generated samples that a classifier of real data gives the source's class, of the mean "
    "latent and of one drawn; `measured` and `reconstructed` are that classifier's own accuracy (table 2, Rec) and "
    "on the autoencoder's reconstructions (table 2, VAE).",
    "`diversity`: root mean square distance between generated samples of one class, in percent of real ones; "
    "accuracy above `reconstructed` with little diversity means prototypes.",
    "Fashion-MNIST is a subset: 2000 images to train on, 800 to test.",
    "The paper's networks, weights λ and numbers of steps are in a supplement that is not available: ours are two "
    "linear layers each way, Bernoulli likelihood of pixels, λ = 1; what else is ours was chosen on validation.",
)


def image_network(name: str) -> Callable[[], ModalityNetwork]:
    """Makes the network of 28 x 28 images."""
    return lambda: GreyImageNetwork(ImageSpec(name, (28, 28)), LATENT_SIZE, 400)


def image_domains(data: Path, factor: float) -> dict[str, Domain]:
    """``mnist`` and ``fashion``."""
    return {
        "mnist": Domain("mnist", mnist(data), image_network("mnist"), round(3000 * factor)),
        "fashion": Domain("fashion", fashion_mnist(data), image_network("fashion"), round(1500 * factor)),
    }


class FashionMnist(AssociationProtocol):
    """Fashion-MNIST to MNIST and back."""

    name = "fashion-mnist"
    title = "recognition of cross-generated garments and digits, by the share of pairs"
    reference = "Associators (arXiv 1905.12867), tables 1 and 2, figure 6"
    published = {  # noqa: RUF012
        "associators, 100 %": {
            "fashion→mnist": 82.02,
            "mnist→fashion": 94.26,
            "mnist measured": 97.97,
            "mnist reconstructed": 96.12,
            "fashion measured": 89.22,
            "fashion reconstructed": 80.54,
        },
        "JMVAE": {"fashion→mnist": 83.49, "mnist→fashion": 88.14},
        "MVAE": {"fashion→mnist": 62.65, "mnist→fashion": 77.62},
        "CVA": {"fashion→mnist": 76.51, "mnist→fashion": 85.88},
    }
    notes = NOTES
    first = "mnist"
    additions = {"fashion": ("mnist",)}  # noqa: RUF012
    routes = (("fashion", "mnist"), ("mnist", "fashion"))

    def arms(self, budget: Budget) -> tuple[str, ...]:
        """Shares of pairs, and the paper's own objective with all of them."""
        return (*super().arms(budget), EQUATION_7)

    def domains(self, data: Path, factor: float) -> dict[str, Domain]:
        """MNIST and Fashion-MNIST."""
        return image_domains(data, factor)
