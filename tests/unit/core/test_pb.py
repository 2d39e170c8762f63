"""core.pb: presence of enum fields, field numbers as the specs have them, generated code up to date."""

from pathlib import Path

import pytest
from google.protobuf.message import Message

from p2pfwd.core.pb import autonat_pb2, circuit_pb2, dcutr_pb2, identify_pb2, kad_pb2, noise_pb2


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (circuit_pb2.HopMessage(type=circuit_pb2.HopMessage.RESERVE), "0800"),
        (circuit_pb2.StopMessage(type=circuit_pb2.StopMessage.CONNECT), "0800"),
        (circuit_pb2.HopMessage(type=circuit_pb2.HopMessage.STATUS, status=circuit_pb2.OK), "08022864"),
        (circuit_pb2.Limit(duration=120, data=131072), "087810808008"),
        (kad_pb2.Message(type=kad_pb2.Message.PUT_VALUE), "0800"),
        (kad_pb2.Message(type=kad_pb2.Message.FIND_NODE, key=b"k"), "080412016b"),
        (kad_pb2.Message(closer_peers=[kad_pb2.Message.Peer(id=b"i", connection=0)]), "42050a01691800"),
        (autonat_pb2.Message(type=autonat_pb2.Message.DIAL), "0800"),
        (autonat_pb2.DialBack(nonce=1), "090100000000000000"),
        (dcutr_pb2.HolePunch(type=dcutr_pb2.HolePunch.SYNC), "08ac02"),
        (noise_pb2.NoiseHandshakePayload(extensions={"stream_muxers": ["/y"]}), "220412022f79"),
        (identify_pb2.Identify(agent_version="a", signed_peer_record=b"r"), "320161420172"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_messages_have_the_specs_field_numbers(message: Message, encoded: str) -> None:
    assert message.SerializeToString().hex() == encoded


def test_unknown_fields_are_skipped() -> None:
    data = bytes.fromhex("320161" + "7a0178" + "f80105" + "f901" + "00" * 8 + "fd01" + "00" * 4)
    assert identify_pb2.Identify.FromString(data).agent_version == "a"


def test_every_proto_has_its_generated_code() -> None:
    folder = Path(identify_pb2.__file__).parent
    for source in folder.glob("*.proto"):
        assert (folder / f"{source.stem}_pb2.py").exists() and (folder / f"{source.stem}_pb2.pyi").exists()
