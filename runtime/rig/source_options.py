"""Where a sensor's samples come from and how they are brought to the rig's form: the `source` and `transform` of a rig.

Options are data. What they name is opened in a process of the sensor's own, by the runtime's sensors;
reading a rig opens nothing and imports no library of any device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from configs.reading import StrictModel
from engines.bundle import WireDtype

Unit = Literal["V", "mV", "uV", "nV", "m", "cm", "mm", "full-scale", "pcm16", "intensity"]
"""Units that samples may come in; `full-scale` is floating point audio within -1 and 1."""


class SourceOptions(StrictModel):
    """What every kind of source takes."""

    open_s: float = Field(default=20.0, gt=0, description="opening that takes longer ends the process")
    stall_s: float = Field(
        default=2.0, gt=0, description="no samples for this long, or for five messages: opened again"
    )


class CameraOptions(SourceOptions):
    """UVC camera, RTSP stream or video file, by OpenCV."""

    kind: Literal["camera"]
    device: int | str = Field(
        default=0, description="index, /dev path, rtsp:// or http:// address, video file"
    )
    size: tuple[int, int] | None = Field(default=None, description="[width, height] to ask the driver for")
    fps: float | None = Field(default=None, gt=0, description="frames per second to ask the driver for")
    fourcc: str | None = Field(
        default=None, min_length=4, max_length=4, description="pixel format to ask for: MJPG"
    )
    loop: bool = Field(default=False, description="video files: begin again at the end")


class DepthImagesOptions(SourceOptions):
    """A folder of 16-bit PNG or TIFF images, played in name order."""

    kind: Literal["depth-images"]
    folder: Path
    rate_hz: float | None = Field(default=None, gt=0, description="images per second; the rig's by default")
    loop: bool = False


class RealSenseOptions(SourceOptions):
    """Intel RealSense camera, or a .bag file recorded from one."""

    kind: Literal["realsense"]
    serial: str | None = Field(default=None, description="serial number; any camera by default")
    size: tuple[int, int] = Field(default=(640, 480), description="[width, height] of the stream")
    fps: int = Field(default=30, ge=1)
    file: Path | None = Field(default=None, description="a .bag recording to play instead of a camera")
    loop: bool = Field(default=False, description="recordings: begin again at the end")


class OakOptions(SourceOptions):
    """Luxonis OAK camera: the colour camera, or depth from its stereo pair."""

    kind: Literal["oak"]
    device: str | None = Field(default=None, description="device id, IP address or USB path; any by default")
    socket: str = Field(default="CAM_A", description="which camera gives colour")
    size: tuple[int, int] = Field(default=(640, 400), description="[width, height] of the stream")
    fps: float = Field(default=30.0, gt=0)


class MicrophoneOptions(SourceOptions):
    """A sound device, by PortAudio."""

    kind: Literal["microphone"]
    stall_s: float = Field(
        default=5.0, gt=0, description="as above; sound servers take seconds to deliver the first block"
    )
    device: int | str | None = Field(
        default=None, description="index or part of a name; the system's default"
    )
    rate_hz: float | None = Field(
        default=None, gt=0, description="to ask the device for; the rig's by default"
    )
    channels: int = Field(default=1, ge=1, description="channels to open")
    latency_s: float | None = Field(default=None, gt=0, description="buffering to ask for; PortAudio's `low`")


class AudioFileOptions(SourceOptions):
    """A WAV, FLAC or OGG file, by libsndfile."""

    kind: Literal["audio-file"]
    file: Path
    loop: bool = False


class LslOptions(SourceOptions):
    """A Lab Streaming Layer stream on this network."""

    kind: Literal["lsl"]
    name: str | None = None
    type: str | None = Field(default=None, description="such as EEG")
    source_id: str | None = None
    resolve_s: float = Field(default=5.0, gt=0, description="how long one search may take")

    @model_validator(mode="after")
    def _one(self) -> LslOptions:
        if self.name is None and self.type is None and self.source_id is None:
            raise ValueError("lsl needs at least one of name, type, source_id")
        return self


class BrainflowOptions(SourceOptions):
    """An EEG board that BrainFlow knows."""

    kind: Literal["brainflow"]
    board: int | str = Field(description="number or name of a board: CYTON_BOARD, SYNTHETIC_BOARD")
    serial_port: str = ""
    mac_address: str = ""
    ip_address: str = ""
    ip_port: int = 0
    serial_number: str = ""
    other_info: str = ""
    timeout_s: int = Field(default=0, ge=0, description="of discovery; BrainFlow's default where 0")
    file: Path | None = Field(default=None, description="PLAYBACK_FILE_BOARD: the file to play")
    master_board: int | str | None = Field(
        default=None, description="PLAYBACK_FILE_BOARD: which board it is of"
    )
    loop: bool = Field(default=False, description="PLAYBACK_FILE_BOARD: begin again at the end")
    commands: tuple[str, ...] = Field(default=(), description="sent to the board before it streams")


class EegFileOptions(SourceOptions):
    """An XDF file, or any file that MNE reads (FIF, EDF, BDF, BrainVision)."""

    kind: Literal["eeg-file"]
    file: Path
    stream: str | None = Field(default=None, description="XDF: name or type of the stream; needed if several")
    loop: bool = False


class RecordingOptions(SourceOptions):
    """One modality of an MCAP file of `afterimage record`, at the pace at which it was captured."""

    kind: Literal["recording"]
    file: Path
    modality: str | None = Field(default=None, description="of the recording; the sensor's own by default")
    loop: bool = False


class SyntheticOptions(SourceOptions):
    """A signal of the synthetic or recorded commands-4 rig; all such sensors of a rig play the same moment."""

    kind: Literal["synthetic"] = "synthetic"
    open_s: float = Field(
        default=120.0, gt=0, description="as above; reading packs takes long on a busy machine"
    )
    modality: str | None = Field(
        default=None, description="rgb, depth, audio or eeg; the sensor's kind by default"
    )
    data: Literal["synthetic", "recorded"] = "synthetic"
    data_dir: Path | None = Field(default=None, description="folder of the packs, for recorded data")
    seed: int = Field(default=0, description="of the scenes or the pairing")
    plan_seed: int = Field(default=0, description="of the order of moments")
    split: Literal["train", "validation", "test"] = "test"


class PluginOptions(BaseModel):
    """A kind that an installed package adds (entry point group `afterimage.sensors`), which checks its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    open_s: float = Field(default=20.0, gt=0)
    stall_s: float = Field(default=2.0, gt=0)

    @property
    def own(self) -> dict[str, Any]:
        """The options that the package reads."""
        return dict(self.model_extra or {})


_BUILT_IN = (
    CameraOptions, DepthImagesOptions, RealSenseOptions, OakOptions, MicrophoneOptions, AudioFileOptions,
    LslOptions, BrainflowOptions, EegFileOptions, RecordingOptions, SyntheticOptions,
)  # fmt: skip

KINDS: dict[str, type[SourceOptions]] = {
    get_args(options.model_fields["kind"].annotation)[0]: options for options in _BUILT_IN
}
"""Built-in kind -> its options."""


def _tag(value: Any) -> str:
    kind = value.get("kind", "synthetic") if isinstance(value, dict) else getattr(value, "kind", "synthetic")
    return kind if isinstance(kind, str) and kind in KINDS else "plug-in"


Source = Annotated[
    Annotated[CameraOptions, Tag("camera")]
    | Annotated[DepthImagesOptions, Tag("depth-images")]
    | Annotated[RealSenseOptions, Tag("realsense")]
    | Annotated[OakOptions, Tag("oak")]
    | Annotated[MicrophoneOptions, Tag("microphone")]
    | Annotated[AudioFileOptions, Tag("audio-file")]
    | Annotated[LslOptions, Tag("lsl")]
    | Annotated[BrainflowOptions, Tag("brainflow")]
    | Annotated[EegFileOptions, Tag("eeg-file")]
    | Annotated[RecordingOptions, Tag("recording")]
    | Annotated[SyntheticOptions, Tag("synthetic")]
    | Annotated[PluginOptions, Tag("plug-in")],
    Discriminator(_tag),
]
"""The `source` of a sensor: which kind, with that kind's options."""


class Transform(StrictModel):
    """What is done to samples before they are published, in the order of these fields; only what is declared.

    Scaling and resampling compute in float32; their result is rounded and saturated to the rig's dtype. Without them a
    dtype that differs must be asked for by `dtype`.
    """

    channels: tuple[int | str, ...] | None = Field(
        default=None, min_length=1, description="names or indices that are kept, of the last axis"
    )
    crop: tuple[int, int, int, int] | None = Field(default=None, description="[top, left, height, width]")
    resize: tuple[int, int] | None = Field(default=None, description="[height, width]")
    interpolation: Literal["area", "linear", "nearest"] | None = Field(
        default=None, description="of resize; area for rgb, nearest for depth by default"
    )
    colour: Literal["bgr-to-rgb", "grey-to-rgb"] | None = None
    every: int = Field(default=1, ge=1, description="images: keep one image in this many")
    from_unit: Unit | None = Field(
        default=None, description="what the samples come in; converted to the rig's unit"
    )
    scale: float | None = Field(default=None, description="samples times this are in the rig's unit")
    resample_hz: float | None = Field(
        default=None, gt=0, description="audio and EEG: band-limited change of rate"
    )
    dtype: WireDtype | None = Field(
        default=None, description="convert to this, rounded and saturated; 64-bit floats too"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Transform:
        if self.from_unit is not None and self.scale is not None:
            raise ValueError("give from_unit or scale, not both")
        if self.scale is not None and not (self.scale != 0 and abs(self.scale) < float("inf")):
            raise ValueError(f"scale must be finite and not 0, got {self.scale}")
        if self.interpolation is not None and self.resize is None:
            raise ValueError("interpolation is of resize, which is not given")
        sides = (*(self.resize or ()), *(self.crop or ())[2:])
        if any(s < 1 for s in sides) or any(s < 0 for s in (self.crop or ())[:2]):
            raise ValueError(f"crop and resize need positive sizes, got {self.crop} and {self.resize}")
        return self
