"""Make one nkey per role of roles.conf: seeds into files, public keys for the server to standard output.

    python deploy/nats/role_keys.py keys > roles.env

`keys/` then holds `<role>.nk`, readable by you alone: hand each to who has the role, as NATS_NKEY_SEED.
Standard output has one NAME=PUBLIC KEY a line; none of it is secret. Seeds that are there stay as they are.
"""

import os
import sys
from pathlib import Path

import nkeys

ROLES = (
    "system",
    "service",
    "operator",
    "recorder",
    "recorder-demo",
    "integrator",
    "viewer",
    "auditor",
)


def role_keys(folder: Path) -> dict[str, str]:
    """Return variable -> public key of every role; a role without a seed in `folder` gets one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    public = {}
    for role in ROLES:
        path = folder / f"{role}.nk"
        if not path.exists():
            seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(seed)
        name = f"LUCID_{role.upper().replace('-', '_')}_NKEY"
        public[name] = nkeys.from_seed(bytearray(path.read_bytes().strip())).public_key.decode()
    return public


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} DIRECTORY")
    for name, key in role_keys(Path(sys.argv[1])).items():
        print(f"{name}={key}")
