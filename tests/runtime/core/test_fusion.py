"""Fill policies: what fuse is told of the modalities that are not there."""

import numpy as np
import pytest

from runtime.core.fusion import fill
from runtime.rig import FillPolicy

NAMES = ("rgb", "audio", "eeg")
LIVE = {"rgb": True, "audio": False, "eeg": False}
EVIDENCE = {"rgb": np.full(2, 1.0, np.float32), "audio": np.full(2, 2.0, np.float32)}
BLANK = {name: np.full(2, -1.0, np.float32) for name in NAMES}


@pytest.mark.parametrize(
    ("policy", "presence", "given", "imputed"),
    [
        ("impute", [1, 0, 0], {"rgb": 1.0}, ("audio", "eeg")),
        ("hold", [1, 1, 0], {"rgb": 1.0, "audio": 2.0}, ()),
        ("zero", [1, 1, 1], {"rgb": 1.0, "audio": -1.0, "eeg": -1.0}, ()),
    ],
)
def test_policy(
    policy: FillPolicy, presence: list[int], given: dict[str, float], imputed: tuple[str, ...]
) -> None:
    result = fill(policy, NAMES, LIVE, EVIDENCE, BLANK)
    assert result.presence.tolist() == presence
    assert result.presence.dtype == np.float32
    assert {name: float(e[0]) for name, e in result.evidence.items()} == given
    assert result.imputed == imputed


def test_nothing_live_imputes_everything() -> None:
    result = fill("impute", NAMES, dict.fromkeys(NAMES, False), EVIDENCE, {})
    assert result.presence.tolist() == [0, 0, 0]
    assert dict(result.evidence) == {}
    assert result.imputed == NAMES
