"""Answers to an MQTT broker, through paho."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from pipelines.live.endpoint import Endpoint, read_endpoint
from pipelines.live.lines import LineWriter
from pipelines.live.outbox import RetryError
from pipelines.live.usage import UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from data.frame import Pair
    from data.prepare import Prepared
    from pipelines.live.answer import Answer

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TOPIC = "rgbt/live"
_OPTIONS = ("qos", "retain", "client", "ca")
_KEEP_ALIVE_S = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1, 10
_UNSENT = 64
"""Messages that paho holds at most: it would take more without limit from a broker that has stalled."""
_FAREWELL_S = _FIRST_CONNECTION_S = 1.0
_NOT_YET = "not connected yet"


class MqttSink:
    """One message for each answer, the line of JsonLinesSink, and ``TOPIC/status``: online, or offline (retained).

    The broker need not be up at the start, and is connected to again whenever it is lost. ``write`` does not wait (but
    a second for the first connection): RetryError says that the answer is to be handed over again, see Outbox.

    Args:
        address: ``mqtt://[USER:PASSWORD@]HOST[:PORT][/TOPIC][?qos=0|1|2&retain=1&client=ID&ca=FILE]``; mqtts:// is TLS.
        classes: Names of the model's classes.
        rle: Whether masks are told too.
        is_live: See LineWriter.

    Raises:
        DataError: the address is none, or paho is not installed.
    """

    def __init__(self, address: str, classes: tuple[str, ...], rle: bool = False, *, is_live: bool = False) -> None:
        endpoint, topic = _read(address)
        qos = endpoint.options.get("qos", "0")
        wrong = [f"?{name}=" for name in endpoint.options if name not in _OPTIONS]
        wrong += [f"qos={qos}"] if qos not in ("0", "1", "2") else []
        wrong += [f"topic {topic}"] if set("+#") & set(topic) else []
        if wrong:
            raise UsageError(f"--mqtt {endpoint.name}: no {wrong[0]}; give a plain topic and {', '.join(_OPTIONS)}")
        self._name = endpoint.name
        self._topic = topic
        self._qos = int(qos)
        self._retain = endpoint.options.get("retain", "0") not in ("0", "false", "")
        self._as_line = LineWriter(classes, rle, is_live=is_live)
        self.lost = 0
        """Answers that were taken, and went down with their connection; see Outbox."""
        self._unsent: deque[MQTTMessageInfo] = deque()
        self._counting = threading.Lock()
        self._why: str | None = _NOT_YET
        self._is_up = threading.Event()
        self._client = self._connect(endpoint)

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Publish one answer; RetryError while the broker is away, or takes nothing."""
        if not self._is_up.wait(_FIRST_CONNECTION_S if self._why == _NOT_YET else 0):
            raise RetryError(f"{self._name}: {self._why}")
        self._forget_sent()
        if len(self._unsent) >= _UNSENT:
            raise RetryError(f"{self._name}: the broker takes nothing more")
        info = self._client.publish(self._topic, self._as_line(pair, answer), self._qos, self._retain)
        if info.rc != 0:
            raise RetryError(f"{self._name}: the broker is away")
        self._unsent.append(info)

    def close(self, *, failed: bool = False) -> None:
        """Say farewell and wait a moment for what is under way."""
        if self._is_up.is_set():
            farewell = self._client.publish(f"{self._topic}/status", _status("offline"), 1, retain=True)
            _wait_for([*self._unsent, farewell])
        self._client.disconnect()
        self._client.loop_stop()
        self._forget_sent(is_over=True)

    def _connect(self, endpoint: Endpoint) -> Client:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise DataError("--mqtt needs the package paho-mqtt; pip install 'rgbt-fusion[mqtt]'") from None
        client = Client(CallbackAPIVersion.VERSION2, client_id=endpoint.options.get("client", ""))
        if endpoint.user is not None:
            client.username_pw_set(endpoint.user, endpoint.password)
        if endpoint.scheme == "mqtts":
            _use_tls(client, endpoint)
        client.will_set(f"{self._topic}/status", _status("offline"), 1, retain=True)
        client.reconnect_delay_set(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        client.max_queued_messages_set(2 * _UNSENT)
        client.connect_timeout = 5.0
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.connect_async(endpoint.host, endpoint.port or _PORTS[endpoint.scheme], _KEEP_ALIVE_S)
        client.loop_start()
        return client

    def _on_connect(
        self, client: Client, _: object, flags: ConnectFlags, reason: ReasonCode, more: Properties | None
    ) -> None:
        if reason.is_failure:
            self._why = f"the broker refuses the connection ({str(reason).lower()})"
            return
        self._forget_sent(is_over=self._qos == 0)  # others are sent again
        client.publish(f"{self._topic}/status", _status("online"), 1, retain=True)
        self._why = None
        self._is_up.set()

    def _on_disconnect(
        self, client: Client, _: object, flags: DisconnectFlags, reason: ReasonCode, more: Properties | None
    ) -> None:
        self._is_up.clear()
        self._why = self._why or f"the connection was lost ({str(reason).lower()})"

    def _on_connect_fail(self, client: Client, _: object) -> None:
        self._why = "the broker cannot be reached"

    def _forget_sent(self, *, is_over: bool = False) -> None:
        """Forget what has arrived, and count what is lost; ``is_over``: so is whatever has not arrived by now."""
        with self._counting:
            for info in list(self._unsent):
                try:
                    is_sent = info.is_published()
                except (RuntimeError, ValueError):  # it was lost with its connection
                    self.lost += 1
                else:
                    if not is_sent and not is_over:
                        return
                    self.lost += not is_sent
                self._unsent.popleft()


def broker_of(address: str) -> tuple[tuple[str, int], str, str | None]:
    """Host and port, topic, and the client's name where one is given; DataError as MqttSink."""
    endpoint, topic = _read(address)
    return (endpoint.host, endpoint.port or _PORTS[endpoint.scheme]), topic, endpoint.options.get("client")


def _wait_for(sending: Sequence[MQTTMessageInfo]) -> None:
    for info in sending:
        try:
            info.wait_for_publish(_FAREWELL_S)
        except (RuntimeError, ValueError):  # it was lost with its connection
            return
        if not info.is_published():
            return


def _read(address: str) -> tuple[Endpoint, str]:
    endpoint = read_endpoint(address, "--mqtt", tuple(_PORTS), "mqtt://broker:1883/site/gate")
    return endpoint, endpoint.path.strip("/") or _TOPIC


def _use_tls(client: Client, endpoint: Endpoint) -> None:
    try:
        client.tls_set(endpoint.options.get("ca"))
    except OSError as error:
        raise DataError(f"--mqtt {endpoint.name}: the certificates cannot be read ({error.strerror})") from None


def _status(state: str) -> str:
    told: Mapping[str, Any] = {"state": state}
    return json.dumps(told)
