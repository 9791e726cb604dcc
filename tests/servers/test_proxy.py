"""Each fault of the proxy does what it says, to a server that answers what it is told."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.servers.ports import LOOPBACK, free_port
from tests.servers.proxy import FaultProxy


class Echo(socketserver.ThreadingTCPServer):
    """Answers with what it got, and remembers it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), EchoHandler)
        self.heard: list[bytes] = []
        self.changed = threading.Condition()

    def hears(self, *expected: bytes) -> None:
        """Wait until each connection, in any order, said and ended with what is expected."""
        with self.changed:
            told = self.changed.wait_for(lambda: sorted(self.heard) == sorted(expected), 20)
            assert told, self.heard


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        echo, connection = self.server, self.request
        heard = b""
        try:
            while data := connection.recv(65_536):
                heard += data
                connection.sendall(data)
        except OSError:
            heard += b"!"
        with echo.changed:
            echo.heard.append(heard)
            echo.changed.notify_all()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(LOOPBACK, echo.server_address[1]) as made:
        yield made


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    """Opens connections to the proxy."""
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        before = proxy.counts.accepted
        opened.append(socket.create_connection((proxy.host, proxy.port), timeout=20))
        proxy.wait_for(lambda counts: counts.accepted > before)
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def read(client: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or what comes before the end."""
    got = b""
    while len(got) < size and (data := client.recv(size - len(got))):
        got += data
    return got


def asked(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return read(client, len(data))


def is_silent(client: socket.socket) -> bool:
    """Nothing has arrived."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    finally:
        client.settimeout(20)
    return False


def test_without_faults_bytes_and_ends_pass_unchanged(
    echo: Echo, proxy: FaultProxy, connect: Connect
) -> None:
    client = connect()
    big = bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(big,))
    sender.start()
    assert read(client, len(big)) == big
    sender.join()
    client.shutdown(socket.SHUT_WR)

    assert client.recv(1) == b""
    echo.hears(big)
    counts = proxy.wait_for(lambda counts: counts.open == 0)
    assert (counts.accepted, counts.resets) == (1, 0)
    assert counts.request_bytes == counts.reply_bytes == len(big)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_reset_after_n_bytes_of_the_request_lets_just_these_reach_the_server(
    echo: Echo, proxy: FaultProxy, connect: Connect, size: int
) -> None:
    client = connect()
    assert asked(client, b"hello") == b"hello"
    proxy.reset_after(size, "request")
    client.sendall(b"world")

    with pytest.raises(ConnectionResetError):
        read(client, 99)
    counts = proxy.wait_for(lambda counts: counts.resets == 1)
    assert counts.request_bytes == 5 + size


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_reset_after_n_bytes_of_the_reply_lets_the_whole_request_reach_the_server(
    proxy: FaultProxy, connect: Connect, size: int
) -> None:
    client = connect()
    proxy.reset_after(size, "reply")
    client.sendall(b"world")

    with pytest.raises(ConnectionResetError):
        read(client, 99)
    counts = proxy.wait_for(lambda counts: counts.resets == 1)
    assert (counts.request_bytes, counts.reply_bytes) == (5, size)


def test_a_reset_of_the_first_connection_spares_all_others(
    proxy: FaultProxy, connect: Connect
) -> None:
    one, two = connect(), connect()
    proxy.reset_after(0, "request")
    two.sendall(b"x")

    with pytest.raises(ConnectionResetError):
        two.recv(1)
    assert asked(one, b"one") == b"one"
    assert asked(connect(), b"three") == b"three"


def test_a_reset_of_the_open_connections_spares_later_ones(
    proxy: FaultProxy, connect: Connect
) -> None:
    both = [connect(), connect()]
    proxy.reset_after(0, "request", on="open")
    later = connect()

    for client in both:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert asked(later, b"later") == b"later"


def test_a_reset_of_the_next_connection_spares_those_before_and_after(
    proxy: FaultProxy, connect: Connect
) -> None:
    before = connect()
    proxy.reset_after(2, "reply", on="next")
    next_one, after = connect(), connect()

    assert asked(before, b"before") == b"before"
    assert asked(after, b"after") == b"after"
    next_one.sendall(b"next")
    with pytest.raises(ConnectionResetError):
        read(next_one, 99)


def test_a_reset_of_each_connection_ends_when_healed(proxy: FaultProxy, connect: Connect) -> None:
    proxy.reset_after(2, "request", on="each")
    for _ in range(3):
        client = connect()
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            read(client, 99)
    proxy.heal()

    assert asked(connect(), b"hello") == b"hello"
    assert proxy.counts.resets == 3


def test_a_reset_can_wait_for_a_certain_request(proxy: FaultProxy, connect: Connect) -> None:
    other, client = connect(), connect()
    proxy.reset_after(0, "reply", when=b"COMMIT")

    assert asked(other, b"PING") == b"PING"
    assert asked(client, b"PING COM") == b"PING COM"
    assert asked(client, b"M") == b"M"
    client.sendall(b"IT 1")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert asked(other, b"COMMIT") == b"COMMIT"


def test_the_bytes_of_a_certain_request_count_from_its_start(
    proxy: FaultProxy, connect: Connect
) -> None:
    client = connect()
    proxy.reset_after(3, "request", when=b"COMMIT")
    client.sendall(b"some COMMIT")

    with pytest.raises(ConnectionResetError):
        read(client, 99)
    counts = proxy.wait_for(lambda counts: counts.resets == 1)
    assert counts.request_bytes == len(b"some COM")


def test_the_server_sees_a_reset_too(echo: Echo, proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    assert asked(client, b"hello") == b"hello"
    proxy.reset_open()

    echo.hears(b"hello!")
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_held_replies_come_in_order_when_released(proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    proxy.hold()
    client.sendall(b"one ")
    proxy.wait_for(lambda counts: counts.held_bytes == 4)
    client.sendall(b"two")
    proxy.wait_for(lambda counts: counts.request_bytes == 7)
    assert is_silent(client)
    proxy.release()

    assert read(client, 7) == b"one two"
    assert proxy.wait_for(lambda counts: counts.reply_bytes == 7).held_bytes == 0


def test_a_partition_loses_what_is_said_and_shows_when_it_heals(
    echo: Echo, proxy: FaultProxy, connect: Connect
) -> None:
    client, silent = connect(), connect()
    assert asked(client, b"before") == b"before"
    proxy.partition()
    client.sendall(b"lost")
    proxy.wait_for(lambda counts: counts.dropped_bytes == 4)
    during = connect()
    during.sendall(b"lost too")
    proxy.wait_for(lambda counts: counts.dropped_bytes == 12)
    assert is_silent(client) and is_silent(during)
    proxy.heal()

    for each in (client, during):
        with pytest.raises(ConnectionResetError):
            each.recv(1)
    echo.hears(b"before!", b"!")
    assert asked(silent, b"after") == b"after"
    assert proxy.counts.request_bytes == len(b"before") + len(b"after")


def test_dropped_replies_leave_the_server_at_work(
    echo: Echo, proxy: FaultProxy, connect: Connect
) -> None:
    client = connect()
    proxy.drop("reply")
    client.sendall(b"work")
    counts = proxy.wait_for(lambda counts: counts.dropped_bytes == 4)

    assert counts.request_bytes == 4
    assert is_silent(client)
    proxy.heal()
    echo.hears(b"work!")


def test_an_end_within_a_partition_is_not_told(
    echo: Echo, proxy: FaultProxy, connect: Connect
) -> None:
    client = connect()
    assert asked(client, b"hello") == b"hello"
    proxy.partition()
    client.close()
    client = connect()
    client.sendall(b"x")
    proxy.wait_for(lambda counts: counts.dropped_bytes == 1)

    assert proxy.counts.open == 2
    assert echo.heard == []
    proxy.heal()
    echo.hears(b"hello!", b"!")


@pytest.mark.parametrize("size", [1, 3])
def test_chunks_arrive_whole(proxy: FaultProxy, connect: Connect, size: int) -> None:
    proxy.chunk(size)
    client = connect()

    assert asked(client, b"hello, world") == b"hello, world"


def test_a_reset_may_fall_within_chunks(proxy: FaultProxy, connect: Connect) -> None:
    proxy.chunk(2)
    proxy.reset_after(3, "request")
    client = connect()
    client.sendall(b"hello")

    with pytest.raises(ConnectionResetError):
        read(client, 99)
    assert proxy.wait_for(lambda counts: counts.resets == 1).request_bytes == 3


def test_delayed_bytes_arrive(proxy: FaultProxy, connect: Connect) -> None:
    proxy.delay(0.01)

    assert asked(connect(), b"hello") == b"hello"


def test_a_server_that_is_not_there_resets_its_clients() -> None:
    with FaultProxy(LOOPBACK, free_port()) as proxy:
        place = (proxy.host, proxy.port)
        with pytest.raises(ConnectionResetError), socket.create_connection(place, 20) as client:
            client.recv(1)
        proxy.wait_for(lambda counts: counts.open == 0)


def test_a_closed_proxy_resets_its_clients_whatever_their_faults(echo: Echo) -> None:
    with FaultProxy(LOOPBACK, echo.server_address[1]) as proxy:
        clients = [socket.create_connection((proxy.host, proxy.port), timeout=20)]
        assert asked(clients[0], b"x") == b"x"
        proxy.hold()
        proxy.drop("request")
        clients.append(socket.create_connection((proxy.host, proxy.port), timeout=20))
        proxy.wait_for(lambda counts: counts.accepted == 2)

    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port))


def test_a_url_leads_through_the_proxy(proxy: FaultProxy) -> None:
    place = f"{proxy.host}:{proxy.port}"

    assert proxy.through("redis://127.0.0.1:6379/3") == f"redis://{place}/3"
    assert proxy.through("redis://:pw@there:1/0?a=b") == f"redis://:pw@{place}/0?a=b"
