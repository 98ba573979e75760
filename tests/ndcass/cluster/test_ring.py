import socket

from ndcass.cluster import ring

STATUS = """
Datacenter: ingest
==================
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
--  Address         Load        Tokens  Owns (effective)  Host ID  Rack
UN  127.0.5.1       117.19 KiB  4       100.0%            7b596b21  rack1
DN  127.0.5.2       ?           4       100.0%            7b596b22  rack1

Datacenter: archive
===================
--  Address         Load        Tokens  Owns (effective)  Host ID  Rack
UJ  127.0.5.3:7001  117.19 KiB  4       ?                 7b596b23  rack1
?N  127.0.5.4       117.19 KiB  4       ?                 7b596b24  rack1

UNrelated line about 127.0.5.9
"""


def test_status_is_read_as_a_state_for_each_address() -> None:
    assert ring.views(STATUS) == {
        "127.0.5.1": "UN",
        "127.0.5.2": "DN",
        "127.0.5.3": "UJ",
        "127.0.5.4": "?N",
    }


def test_port_accepts_while_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ring.accepts("127.0.0.1", port)
    assert not ring.accepts("127.0.0.1", port)
