"""What a user keeps secret is shown nowhere."""

import pytest

from data.errors import DataError
from pipelines.live.endpoint import read_endpoint
from pipelines.live.redact import encode_user, fill_in, redact, redact_address
from pipelines.live.stream import StreamAddress

PASSWORDS = ["hunter2", "p@ss", "p/ss", "p#ss", "p@s/s#w?d", "a:b@c", "per%40cent", "£ü"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["rtsp", "RTSPS", "http"])
def test_credentials_are_hidden_whatever_they_hold(password, scheme):
    text = redact(f"cannot open {scheme}://admin:{password}@10.0.0.5:554/live: 401")
    assert text == f"cannot open {scheme}://***@10.0.0.5:554/live: 401"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://cam/video.cgi?user=me&pwd=hunter2&channel=1", "http://cam/video.cgi?user=***&pwd=***&channel=1"),
        ("http://cam/s?access_token=abc&fps=5", "http://cam/s?access_token=***&fps=5"),
        ("rtsp://cam/user=me&password=hunter2&channel=1.sdp", "rtsp://cam/user=***&password=***&channel=1.sdp"),
        ("rtspsrc location=rtsp://me:a@b@cam/1 user-id=me user-pw='a b' ! x",
         "rtspsrc location=rtsp://***@cam/1 user-id=*** user-pw=*** ! x"),
        ("rtsp://cam:554/Streaming/Channels/101", "rtsp://cam:554/Streaming/Channels/101"),
        ("monkey=1 keyint=15", "monkey=1 keyint=15"),
        ("http://cam/s?jwt=abc&password1=x&userPassword=y", "http://cam/s?jwt=***&password1=***&userPassword=***"),
        ("Invalid header value b'Bearer s3cret\\r'", "Invalid header value b'Bearer ***'"),
    ],
)  # fmt: skip
def test_settings_that_are_secrets_are_hidden_and_others_are_not(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize("password", [*PASSWORDS, "pa'ss", 'pa"ss', "pa<s>s", "pa ss", "p'a@s s"])
def test_an_address_that_stands_alone_hides_any_password(password):
    shown = "rtsp://***@10.0.0.5:1/rgb?token=***&fps=5"
    assert redact_address(f"rtsp://me:{password}@10.0.0.5:1/rgb?token=a'b c&fps=5") == shown
    assert StreamAddress.parse(f"rtsp://me:{password}@10.0.0.5:1/rgb").name == "rtsp://***@10.0.0.5:1/rgb"
    hook = read_endpoint("http://me:a'b c@10.0.0.5:1/in?token=a'b c", "--webhook", ("http",), "http://h")
    assert hook.name == "http://***@10.0.0.5:1/in?token=***"


def test_secrets_come_from_the_environment_and_from_files(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("p@ss/w#rd\nsecond line\n")
    monkeypatch.setenv("CAM_USER", "ad min")
    monkeypatch.setenv("CAM_PASSWORD_FILE", str(tmp_path / "secret"))
    assert fill_in("rtsp://${CAM_USER}:${CAM_PASSWORD}@cam/1") == "rtsp://ad%20min:p%40ss%2Fw%23rd@cam/1"
    assert fill_in(f"rtsp://me:${{file:{tmp_path}/secret}}@cam/1") == "rtsp://me:p%40ss%2Fw%23rd@cam/1"
    assert fill_in("rtspsrc user-pw=${CAM_PASSWORD} ! appsink") == "rtspsrc user-pw=p@ss/w#rd ! appsink"


def test_a_secret_that_is_missing_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").touch()
    monkeypatch.delenv("NOPE", raising=False)
    for text, says in (
        ("rtsp://me:${NOPE}@cam", "neither NOPE nor NOPE_FILE is set"),
        (f"rtsp://me:${{file:{tmp_path}/none}}@cam", "cannot be read"),
        (f"rtsp://me:${{file:{tmp_path}/empty}}@cam", "is empty"),
        ("rtsp://me:${no name}@cam", "write ${NAME}"),
    ):
        with pytest.raises(DataError, match=says.replace("$", r"\$").replace("{", r"\{")) as caught:
            fill_in(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("rtsp://me:a/b#c?d@cam:554/1", "rtsp://me:a%2Fb%23c%3Fd@cam:554/1"),
        ("rtsp://me:pw@cam:554/1@2", "rtsp://me:pw@cam:554/1@2"),
        ("http://cam:8080/a@b", "http://cam:8080/a@b"),
        ("rtsp://me:a%2Fb@cam/1", "rtsp://me:a%2Fb@cam/1"),
    ],
)
def test_passwords_written_as_they_are_are_encoded_where_nothing_else_can_be_meant(given, meant):
    assert encode_user(given) == meant


def test_options_of_an_address_lie_behind_the_hash():
    address = StreamAddress.parse("rtsp://me:p#w@cam/1?x=1#transport=udp")
    assert (address.url, address.name, address.transport) == (
        "rtsp://me:p%23w@cam/1?x=1",
        "rtsp://***@cam/1?x=1",
        "udp",
    )
    assert StreamAddress.parse("rtsp://me:p#w=x@cam/1").url == "rtsp://me:p%23w%3Dx@cam/1"
    for text, says in (
        ("rtsp://me:hunter2@cam/1#transport=avian", "one of tcp, udp"),
        ("rtsp://me:hunter2@cam/1#speed=9", "one of transport, hwaccel"),
        ("rtsp://me:hunter2@cam:99999/1", "the port is no number"),
        ("rtsp://me:hunter2@[cam/1", "the port is no number"),
        ("rtsp://me:hunter2@cam/1#hwaccel=abacus", "hwaccel abacus is not in this PyAV"),
    ):
        with pytest.raises(DataError, match=says) as caught:
            StreamAddress.parse(text)
        assert "hunter2" not in str(caught.value)
