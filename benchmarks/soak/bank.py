"""What the sensors of a soak see: payloads of one synthetic moment, prepared once and sent in turn."""

from __future__ import annotations

from benchmarks.virtual_node.payloads import Payload
from runtime.rig import SensorSpec
from runtime.signals.moments import MomentSource

_LONGEST_BANK = 4096


def fill_bank(source: MomentSource, sensor: SensorSpec, *, images: int = 32) -> tuple[Payload, ...]:
    """Payloads of one sensor: consecutive messages of one moment, of which no two neighbours are alike.

    Args:
        source: of the samples.
        sensor: of the rig that is played; its chunk may differ from the source's.
        images: how many images; sensors with streams take the whole moment.

    Raises:
        ValueError: the source has no sensor of that name, or one of another form.
    """
    theirs = source.rig.sensor(sensor.modality)
    if (theirs.sample_shape, theirs.dtype) != (sensor.sample_shape, sensor.dtype):
        raise ValueError(
            f"sensor {sensor.modality!r}: the source has {theirs.dtype} {theirs.sample_shape}, "
            f"the rig {sensor.dtype} {sensor.sample_shape}"
        )
    is_image = sensor.kind in ("rgb", "depth")
    available = int(source.duration_s * sensor.rate_hz)
    count = min(images if is_image else _LONGEST_BANK, available // sensor.chunk)
    samples = source.read("test", 0, sensor.modality, 0, count * sensor.chunk)
    chunks = samples.reshape(count, sensor.chunk, *sensor.sample_shape)
    payloads = [Payload.of(chunk, is_image=is_image) for chunk in chunks]
    # The noise of a living sensor differs from message to message; digital silence does not.
    before = [payloads[-1], *payloads[:-1]]
    return tuple(p for b, p in zip(before, payloads, strict=True) if p.data != b.data)
