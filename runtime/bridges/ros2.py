"""The ROS 2 bridge: a process that publishes a node's decisions as ROS topics, and takes ROS topics as its sensors.

``rclpy`` comes with a ROS 2 distribution, not from PyPI, and is imported only here. ``docs/ros2.md`` lists topics,
types and qualities of service; :mod:`runtime.bridges.ros2_mapping` converts the messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from configs.errors import MissingExtraError
from runtime.bridges.ros2_mapping import (
    RosMessage,
    RosMessageError,
    array_samples,
    decision_messages,
    health_message,
    image_samples,
    observation_message,
    topic_base,
)
from runtime.client import Client
from runtime.logs import throttled
from runtime.rig import Rig
from runtime.sensors.host_clocks import clock_beside_monotonic
from runtime.sensors.publisher import Sensor
from runtime.transport.keys import Keys
from runtime.wire import Clock, Decision, HealthEvent, Observation, Output

_POLL_S = 0.1
_DECISION_DEPTH = 10
_SENSOR_DEPTH = 5
_LOG = logging.getLogger("afterimage.bridges")
_TYPES_IN = {
    "rgb": "sensor_msgs/msg/Image",
    "depth": "sensor_msgs/msg/Image",
    "audio": "std_msgs/msg/Int16MultiArray",
    "eeg": "std_msgs/msg/Float32MultiArray",
    "signal": "std_msgs/msg/Float32MultiArray",
}
"""Kind of a sensor -> type of the ROS topic that feeds it."""


def load_ros(module: str) -> Any:
    """A module of ROS 2.

    Raises:
        MissingExtraError: ROS 2 is not installed, or its setup file was not sourced.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            f"the ROS 2 bridge needs {e.name}, which comes with ROS 2: source /opt/ros/DISTRO/setup.bash, and use a "
            "virtual environment made with --system-site-packages"
        ) from e


def message_class(name: str) -> Any:
    """The class of a type such as ``std_msgs/msg/String``."""
    package, kind, title = name.split("/")
    return getattr(load_ros(f"{package}.{kind}"), title)


def ros_message(message: RosMessage) -> Any:
    """The message that rclpy sends."""
    return message_class(message.type)(**{name: _value(value) for name, value in message.fields.items()})


def _value(value: Any) -> Any:
    if isinstance(value, RosMessage):
        return ros_message(value)
    return [ros_message(v) for v in value] if isinstance(value, list) else value


class Ros2Bridge:
    """One ROS node beside one Afterimage node.

    Attributes:
        published: decisions that went to ROS.
        refused: ROS messages that did not fit their sensor; ``last_refusal`` says why the last one did not.
    """

    def __init__(
        self,
        rig: Rig,
        *,
        inputs: Mapping[str, str],
        decisions: str | None = None,
        frames: str | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Make the ROS node with its publishers and subscriptions.

        Args:
            rig: of the node.
            inputs: modality -> the ROS topic that is its sensor.
            decisions: the node's decisions endpoint; the rig's default if not given.
            frames: the node's frames endpoint; the rig's default if not given.
            keys: own pair and the node's public key; needed for a node on another machine.

        Raises:
            MissingExtraError: ROS 2 is not installed.
            RigError: a modality that the rig does not have.
            EndpointError: an endpoint that is not allowed.
            KeysError: keys that cannot be used.
        """
        self._rclpy = load_ros("rclpy")
        self._qos = load_ros("rclpy.qos")
        self.rig = rig
        self.published = 0
        self.refused = 0
        self.last_refusal = ""
        self._sensors: dict[str, Sensor] = {}
        self._publishers: dict[str, Any] = {}
        self._client: Client | None = None
        self._rclpy.init()
        try:
            self._node = self._rclpy.create_node(f"afterimage_{rig.name.replace('-', '_')}")
            for modality in inputs:
                self._sensors[modality] = Sensor(rig, modality, endpoint=frames, keys=keys)
            self._client = Client(rig, ("fused", "health", "best/"), endpoint=decisions, keys=keys)
            for modality, topic in inputs.items():
                self._subscribe(modality, topic)
        except BaseException:
            self.close()
            raise

    def run(self, stop: threading.Event, until_s: float | None = None) -> None:
        """Carry messages both ways until told to stop; ROS calls back in this thread, between messages of the node."""
        assert self._client is not None
        _LOG.info("rig %s is bridged to ROS 2, with %d sensors from ROS", self.rig.name, len(self._sensors))
        end_s = float("inf") if until_s is None else time.monotonic() + until_s
        while not stop.is_set() and time.monotonic() < end_s and self._rclpy.ok():
            self._rclpy.spin_once(self._node, timeout_sec=0.0)
            message = self._client.receive(0.005 if self._sensors else _POLL_S)
            if message is not None:
                self.publish(message)

    def publish(self, message: Output) -> None:
        """Publish a message of the node as ROS messages."""
        if isinstance(message, Decision):
            for topic, ros in decision_messages(message, self._ros_time(message.deadline_ns)):
                self._send(topic, ros)
            self.published += 1
        elif isinstance(message, HealthEvent):
            self._send("/diagnostics", health_message(message, self._ros_time(message.at_ns)))
        elif isinstance(message, Observation):
            ros = observation_message(message, self._ros_time(message.published_ns))
            self._send(f"{message.stream}/{message.modality}", ros)

    def close(self) -> None:
        """Leave ROS and the node."""
        for sensor in self._sensors.values():
            sensor.close()
        if self._client is not None:
            self._client.close()
        if self._rclpy.ok():
            self._rclpy.shutdown()

    def __enter__(self) -> Ros2Bridge:
        """The bridge itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave ROS and the node."""
        self.close()

    def take(self, modality: str, message: Any) -> None:
        """Publish a ROS message as a sensor's frame; one that does not fit is counted and logged, and not published."""
        sensor = self._sensors[modality]
        try:
            if sensor.spec.kind in ("rgb", "depth"):
                samples = image_samples(message, sensor.spec)
            else:
                samples = array_samples(message, sensor.spec)
        except RosMessageError as e:
            self.refused += 1
            text = "a message for sensor %s was refused: %s"
            _LOG.warning(text, modality, e, extra=throttled(f"refused {modality}", modality=modality))
            if str(e) != self.last_refusal:
                self.last_refusal = str(e)
                self._node.get_logger().warning(self.last_refusal)
            return
        clock = self._ros_clock()
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        captured = 0 if stamp is None else stamp.sec * 1_000_000_000 + stamp.nanosec
        # Arrays have no stamp, and some drivers leave it at zero; the time of arrival is the best that is known then.
        sensor.publish(samples, captured or time.monotonic_ns() + clock.offset_ns, clock)

    def _subscribe(self, modality: str, topic: str) -> None:
        kind = _TYPES_IN[self.rig.sensor(modality).kind]
        profile = self._profile("BEST_EFFORT", _SENSOR_DEPTH)
        self._node.create_subscription(
            message_class(kind), topic, lambda message: self.take(modality, message), profile
        )

    def _send(self, topic: str, message: RosMessage) -> None:
        name = topic if topic.startswith("/") else f"{topic_base(self.rig.name)}/{topic}"
        if name not in self._publishers:
            images = topic.startswith(("best/", "imputed/"))
            profile = self._profile("BEST_EFFORT" if images else "RELIABLE", _DECISION_DEPTH)
            self._publishers[name] = self._node.create_publisher(message_class(message.type), name, profile)
        self._publishers[name].publish(ros_message(message))

    def _profile(self, reliability: str, depth: int) -> Any:
        return self._qos.QoSProfile(
            depth=depth,
            reliability=getattr(self._qos.ReliabilityPolicy, reliability),
            history=self._qos.HistoryPolicy.KEEP_LAST,
            durability=self._qos.DurabilityPolicy.VOLATILE,
        )

    def _ros_clock(self) -> Clock:
        """ROS time (simulated time if `use_sim_time` is set), measured against this machine's monotonic clock."""
        return clock_beside_monotonic("ros", lambda: int(self._node.get_clock().now().nanoseconds))

    def _ros_time(self, node_ns: int) -> int:
        return node_ns + self._ros_clock().offset_ns
