"""A certificate for this host, which signs itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from famezd.httpsettings import Tls
from tests.needs import need


def make_certificate(directory: Path) -> Tls:
    """Writes one for localhost and 127.0.0.1 to `directory`, and its key."""
    tls = Tls(cert=directory / "cert.pem", key=directory / "key.pem")
    command = [str(need("openssl", "openssl")), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]
    subprocess.run([*command, "-keyout", tls.key, "-out", tls.cert], check=True, capture_output=True)
    return tls
