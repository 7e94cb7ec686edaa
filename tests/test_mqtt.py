"""Answers to a real broker, which is stopped, frozen and started again."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
import types

import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.mqtt import MqttSink
from pipelines.live.outbox import Outbox, RetryError

S = 20.0
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
mqtt = pytest.importorskip("paho.mqtt.client")


def item(index):
    frames = [Frame(np.zeros((4, 4, 3), np.uint8), index * 10**6, index, name) for name in ("r", "t")]
    prepared = Prepared(frames[0].image, np.zeros((4, 4), np.uint8), np.ones(2, np.float32), 1.0, (4, 4))
    return Pair(*frames), prepared, BoxAnswer(index, np.array([[1, 2, 3, 4, 0.5, 0]], np.float32), (4, 4))


def wait_until(holds, what):
    end = time.monotonic() + S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Broker:
    """mosquitto on a port of its own; can be killed, frozen and started again."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.passwords = folder / "passwords"
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n")
        self.process = None
        self.listeners = []

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.answers, "the broker does not answer")

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()

    def listen(self, topic):
        """A queue of (topic, text) of all that is published from now on."""
        heard, subscribed = queue.Queue(), queue.Queue()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = lambda _, __, message: heard.put((message.topic, message.payload.decode()))
        client.on_connect = lambda *_: client.subscribe(topic, 1)
        client.on_subscribe = lambda *_: subscribed.put(True)
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        subscribed.get(timeout=S)
        self.listeners.append(client)
        return heard

    def close(self):
        for client in self.listeners:
            client.disconnect()
            client.loop_stop()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    made.start()
    yield made
    made.close()


@needs_broker
def test_answers_arrive_with_the_state_before_and_after_them(broker):
    heard = broker.listen("site/gate/#")
    outbox = Outbox("mqtt", MqttSink(f"mqtt://127.0.0.1:{broker.port}/site/gate?qos=1", ("person",), is_live=True))
    for index in range(5):
        outbox.write(*item(index))
    said = [heard.get(timeout=S) for _ in range(6)]
    assert said[0] == ("site/gate/status", '{"state": "online"}')
    lines = [json.loads(text) for topic, text in said[1:] if topic == "site/gate"]
    assert [line["index"] for line in lines] == list(range(5))
    assert lines[0]["boxes"] == [{"box": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "class": "person"}]
    assert lines[0]["utc"].endswith("Z")
    outbox.close(deadline_s=S)
    assert heard.get(timeout=S) == ("site/gate/status", '{"state": "offline"}')
    assert (outbox.status.delivered, outbox.status.dropped) == (5, 0)


@needs_broker
def test_a_broker_that_goes_down_and_comes_back_costs_only_what_there_was_no_room_for(broker):
    outbox = Outbox("mqtt", MqttSink(f"mqtt://127.0.0.1:{broker.port}", ("person",)), depth=4)
    outbox.write(*item(0))
    wait_until(lambda: outbox.status.delivered == 1, "the first answer is not delivered")
    broker.kill()
    wait_until(lambda: not outbox._sink._is_up.is_set(), "the loss goes unnoticed")
    for index in range(1, 10):
        outbox.write(*item(index))
    wait_until(lambda: outbox.status.errors > 0, "no failure is counted")
    assert "lost" in outbox.status.last_error or "reached" in outbox.status.last_error
    broker.start()
    heard = broker.listen("rgbt/live")
    wait_until(lambda: outbox.status.delivered >= 5, "nothing is delivered after the broker came back")
    assert outbox.status.dropped == 5
    outbox.write(*item(10))
    indices = [json.loads(heard.get(timeout=S)[1])["index"]]
    while indices[-1] != 10:
        indices.append(json.loads(heard.get(timeout=S)[1])["index"])
    outbox.close(deadline_s=S)


def test_a_broker_that_was_never_there_costs_no_time_and_is_said_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink = MqttSink(f"mqtt://me:secret@127.0.0.1:{port}/x", ("person",))
    with pytest.raises(RetryError) as caught:
        sink.write(*item(0))
    started = time.monotonic()
    with pytest.raises(RetryError, match="cannot be reached"):
        sink.write(*item(1))
    assert time.monotonic() - started < 0.5
    assert "secret" not in str(caught.value)
    sink.close()


@needs_broker
def test_a_broker_that_hangs_makes_the_sink_hold_no_more_than_it_may(broker):
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/x?qos=1", ("person",))
    assert sink._is_up.wait(S)
    broker.process.send_signal(signal.SIGSTOP)
    with pytest.raises(RetryError, match="takes nothing more"):
        for index in range(200):
            sink.write(*item(index))
    assert index == 64
    started = time.monotonic()
    broker.process.send_signal(signal.SIGCONT)
    sink.close()
    assert time.monotonic() - started < S


@needs_broker
def test_a_wrong_password_is_said_so_without_telling_it(broker, monkeypatch):
    broker.kill()
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(broker.passwords), "me", "right"], check=True)
    broker.passwords.chmod(0o644)
    text = broker.config.read_text().replace("allow_anonymous true", "allow_anonymous false")
    broker.config.write_text(f"{text}password_file {broker.passwords}\n")
    broker.start()
    sink = MqttSink(f"mqtt://me:wr0ng@127.0.0.1:{broker.port}/x", ("person",))
    wait_until(lambda: "refuses" in (sink._why or ""), "the refusal goes unnoticed")
    with pytest.raises(RetryError, match="refuses the connection") as caught:
        sink.write(*item(0))
    assert "wr0ng" not in str(caught.value)
    sink.close()
    monkeypatch.setenv("BROKER_SECRET", "right")
    sink = MqttSink(f"mqtt://me:${{BROKER_SECRET}}@127.0.0.1:{broker.port}/x", ("person",))
    assert sink._is_up.wait(S)
    sink.close()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://broker/x", "give an address such as mqtt://"),
        ("mqtt:///x", "give an address such as mqtt://"),
        ("mqtt://broker:99999/x", "port"),
        ("mqtt://broker/x?qos=3", "no qos=3"),
        ("mqtt://broker/x?nope=1", r"no \?nope="),
        ("mqtt://broker/site/%23/x/+", "plain topic"),
    ],
)
def test_an_address_that_is_none_is_one_line(address, says):
    with pytest.raises(DataError, match=says):
        MqttSink(address, ("person",))


class Info:
    """A double of what paho says of one message."""

    def __init__(self, sent):
        self.sent = sent

    def is_published(self):
        if self.sent is None:
            raise RuntimeError("Message publish failed: The connection was lost.")
        return self.sent

    def wait_for_publish(self, timeout):
        self.is_published()


@pytest.mark.parametrize(("qos", "lost", "waiting"), [(0, 2, 0), (1, 1, 1)])
def test_answers_that_went_down_with_their_connection_are_lost_and_not_delivered(qos, lost, waiting):
    sink = MqttSink(f"mqtt://127.0.0.1:9/x?qos={qos}", ("person",))
    outbox = Outbox("mqtt", sink)
    outbox._succeed(3)  # it had taken three
    sink._unsent.extend([Info(True), Info(None), Info(False)])
    sink._on_connect(sink._client, None, None, types.SimpleNamespace(is_failure=False), None)
    assert (sink.lost, len(sink._unsent)) == (lost, waiting)
    assert (outbox.status.delivered, outbox.status.dropped) == (3 - lost, lost)
    outbox.close(deadline_s=S)
    assert (outbox.status.delivered, outbox.status.dropped) == (1, 2)  # what waited never arrived either


def test_a_connection_that_comes_back_during_the_farewell_keeps_nobody_from_ending():
    sink = MqttSink("mqtt://127.0.0.1:9/x", ("person",))

    class Meddling(Info):
        def wait_for_publish(self, timeout):
            sink._unsent.clear()

    sink._unsent.extend([Meddling(True), Meddling(True)])
    sink._is_up.set()
    sink.close()
    assert not any(thread.name.startswith("paho") for thread in threading.enumerate())
