"""EEG boards, by BrainFlow."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from runtime.core.clock import nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import BrainflowOptions
from runtime.sensors.host_clocks import wall_clock
from runtime.sensors.sample_source import (
    Delivery,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    import_library,
)

_BUFFER_S = 10
_POLL_S = 0.004


class BrainflowSource:
    """The EEG channels of a board, in microvolts as float32, with BrainFlow's stamps."""

    def __init__(self, options: BrainflowOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._library: Any = None
        self._board: Any = None
        self._rows: list[int] = []
        self._stamps = 0

    def open(self) -> Delivery:
        """Connect to the board and let it stream."""
        o, name = self._options, self._sensor.modality
        self._library = lib = import_library("brainflow.board_shim", f"sensor {name!r}: brainflow")
        shim = lib.BoardShim
        shim.disable_board_logger()
        number = self._number(o.board)
        # The playback board has the rate and channels of the board that was recorded.
        described = number if o.master_board is None else self._number(o.master_board)
        try:
            rate = shim.get_sampling_rate(described)
            self._rows, self._stamps = (
                shim.get_eeg_channels(described),
                shim.get_timestamp_channel(described),
            )
            names = self._names(described)
        except lib.BrainFlowError as e:
            raise SourceRefusedError(
                f"sensor {name!r}: board {o.master_board or o.board!r} has no EEG: {e}"
            ) from e
        board = shim(number, self._parameters())
        try:
            board.prepare_session()
            self._board = board
            for command in self._commands():
                board.config_board(command)
            board.start_stream(max(1024, round(rate * _BUFFER_S)))
        except lib.BrainFlowError as e:
            self.close()
            raise SourceLostError("cannot_open", f"board {o.board!r}: {e}") from e
        return Delivery(
            (len(self._rows),),
            "float32",
            "uV",
            float(rate),
            names,
            description=shim.get_device_name(described),
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """All samples since the last call; BrainFlow cannot wait for samples, so it is polled."""
        end = time.monotonic() + timeout_s
        try:
            while not self._board.get_board_data_count():
                if time.monotonic() > end:
                    return None
                time.sleep(_POLL_S)
            data = self._board.get_board_data()
        except self._library.BrainFlowError as e:
            raise SourceLostError("disconnected", f"board {self._options.board!r}: {e}") from e
        array = np.ascontiguousarray(data[self._rows].T, dtype=np.float32)
        return SampleBlock(array, nanoseconds(float(data[self._stamps, -1])), wall_clock("brainflow"))

    def close(self) -> None:
        """Stop the stream and release the board."""
        board, self._board = self._board, None
        if board is not None:
            try:
                board.release_session()
            except self._library.BrainFlowError:
                return  # nothing to release: the board is gone

    def _number(self, board: int | str) -> int:
        if isinstance(board, int):
            return board
        boards = self._library.BoardIds.__members__
        if board not in boards:
            near = sorted(b for b in boards if board.split("_")[0].upper() in b)
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: BrainFlow knows no board {board!r}; "
                f"{f'it knows {near}' if near else 'give its number'}"
            )
        return int(boards[board].value)

    def _names(self, described: int) -> tuple[str, ...] | None:
        try:
            names = tuple(self._library.BoardShim.get_eeg_names(described))
        except self._library.BrainFlowError:  # a board whose electrodes are placed freely has no names
            return None
        return names if len(names) == len(self._rows) else None

    def _parameters(self) -> Any:
        o = self._options
        parameters = self._library.BrainFlowInputParams()
        for field in ("serial_port", "mac_address", "ip_address", "ip_port", "serial_number", "other_info"):
            setattr(parameters, field, getattr(o, field))
        parameters.timeout = o.timeout_s
        if o.file is not None:
            if not o.file.is_file():
                raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {o.file}: no such file")
            parameters.file = str(o.file)
        if o.master_board is not None:
            parameters.master_board = self._number(o.master_board)
        return parameters

    def _commands(self) -> tuple[str, ...]:
        if self._options.file is None:
            return self._options.commands
        loop = "loopback_true" if self._options.loop else "loopback_false"
        return (loop, "new_timestamps", *self._options.commands)
