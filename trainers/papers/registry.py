"""All protocols, one line each."""

from __future__ import annotations

from trainers.papers.commands_4 import Commands4
from trainers.papers.fashion_mnist import FashionMnist
from trainers.papers.mnist_speech import MnistSpeech
from trainers.papers.mnist_split import MnistSplit
from trainers.papers.mnist_transpose import MnistTranspose
from trainers.papers.multimnist import MultiMnist
from trainers.papers.protocol import Protocol, ProtocolError
from trainers.papers.rgbd_5pct import RgbdFivePercent

PROTOCOLS: tuple[Protocol, ...] = (
    MultiMnist(),
    MnistSplit(2),
    MnistSplit(3),
    MnistTranspose(),
    Commands4(),
    FashionMnist(),
    MnistSpeech(),
    RgbdFivePercent(),
)


def find_protocol(name: str) -> Protocol:
    """The protocol with a name.

    Raises:
        ProtocolError: there is none; lists the names.
    """
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise ProtocolError(f"no protocol {name!r}; there are {[p.name for p in PROTOCOLS]}")
