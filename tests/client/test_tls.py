"""Over TLS deadlines hold too, and certificates are checked."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from elman.client import AsyncClient, Client, NotConnected, Retries
from tests.client.proxy import Fault, fault_proxy
from tests.client.test_timeouts import TOTAL, assert_ends_in_time
from tests.running import RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def ends(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusts(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_both_clients_speak_tls(server: RunningServer, ends: ssl.SSLContext, trusts: ssl.SSLContext) -> None:
    async def main(url: str) -> str | None:
        async with AsyncClient(url, verify=trusts) as elman, elman.model("names-gru").stream() as stream:
            assert (await elman.model("names-gru").predict("Lindqvist")).label == "Swedish"
            return (await stream.send("Lindqvist")).label

    with fault_proxy(server.port, lambda _: Fault.PASS, tls=ends) as proxy:
        with Client(proxy.url, verify=trusts) as elman, elman.model("names-gru").stream() as stream:
            assert elman.model("names-gru").predict("Lindqvist").label == "Swedish"
            assert stream.send("Lindqvist").label == "Swedish"
        assert asyncio.run(main(proxy.url)) == "Swedish"


def test_an_untrusted_certificate_is_refused(server: RunningServer, ends: ssl.SSLContext) -> None:
    with fault_proxy(server.port, lambda _: Fault.PASS, tls=ends) as proxy:
        with Client(proxy.url, retries=Retries(1)) as elman, pytest.raises(NotConnected, match="certificate"):
            elman.models()
        with Client(proxy.url, retries=Retries(1)) as elman, pytest.raises(NotConnected, match="certificate"):
            elman.model("names-gru").stream().__enter__()
        assert proxy.done == []


@pytest.mark.parametrize("fault", [Fault.SWALLOW, Fault.DRIP])
def test_a_call_over_tls_ends_in_time(
    server: RunningServer, ends: ssl.SSLContext, trusts: ssl.SSLContext, fault: Fault
) -> None:
    with (
        fault_proxy(server.port, lambda _: fault, tls=ends) as proxy,
        Client(proxy.url, verify=trusts, timeout=TOTAL) as elman,
    ):
        assert_ends_in_time(lambda: elman.model("names-gru").predict("Lindqvist"))
