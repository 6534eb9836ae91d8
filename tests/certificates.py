"""Certificates of an authority of the test's own."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Certificate:
    """A certificate and its key, in two files, with the authority's own certificate in a third."""

    cert: Path
    key: Path
    authority: Path

    def trusted(self) -> ssl.SSLContext:
        """What a client needs that trusts the authority."""
        return ssl.create_default_context(cafile=self.authority)


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._signed(self._name, self._key, is_authority=True))

    def sign(self, name: str, password: bytes = b"") -> Certificate:
        """A new certificate, in the files `<name>.pem` and `<name>.key`, which are replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key", self.path)
        found.cert.write_bytes(self._signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key))
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pkcs8 = serialization.PrivateFormat.PKCS8
        found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
        return found

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, is_authority: bool = False) -> bytes:
        now = datetime.now(UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        usage = x509.KeyUsage(not is_authority, *[False] * 4, is_authority, is_authority, False, False)
        builder = x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
        signed = (
            builder.not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return signed.public_bytes(serialization.Encoding.PEM)
