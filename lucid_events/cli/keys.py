"""`lucid keys generate|show|rotate`: the key that signs manifests, and the list of those believed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucid_events.cli.output import moment, out, print_json, table
from lucid_events.cli.running import Json, run, settings
from lucid_events.errors import ConfigError

if TYPE_CHECKING:
    from lucid_events.evidence.keys import KeyList

keys_app = typer.Typer(help="Keys that manifests are signed and verified with.", no_args_is_help=True)

SeedFile = Annotated[
    Path | None,
    typer.Option("--seed", help="File of the seed, mode 0600, instead of LUCID_SIGNING_SEED."),
]
KeysFile = Annotated[
    Path | None, typer.Option("--keys", help="List of public keys, instead of LUCID_SIGNING_KEYS.")
]
Note = Annotated[str, typer.Option(help="A remark kept with the key.")]


@keys_app.command()
def generate(seed: SeedFile = None, keys: KeysFile = None, note: Note = "", json: Json = False) -> None:
    """Make a key pair: the seed into a new file, the public key into the list and onto the screen.

    The seed itself is never shown.
    """
    from lucid_events.evidence.signing import Signer, generate_seed
    from lucid_events.service.keys import save_keys, write_seed

    async def work() -> str:
        seed_file, keys_file = _files(seed, keys)
        made = generate_seed()
        key = Signer(made).key
        listed = _listed(keys_file).add(key, at=datetime.now(UTC), note=note)
        write_seed(seed_file, made)
        if keys_file is not None:
            save_keys(keys_file, listed)
        return key

    key = run(work, json=json)
    if json:
        print_json({"key": key})
    else:
        out.print(key)


@keys_app.command()
def show(seed: SeedFile = None, keys: KeysFile = None, json: Json = False) -> None:
    """Show the public key that signs, and the keys that are believed."""
    from lucid_events.service.keys import load_signer

    async def work() -> "tuple[str, KeyList]":
        made = settings().evidence
        given = str(seed) if seed is not None else made.signing_seed
        _, keys_file = _paths(seed, keys)
        return load_signer(given).key if given else "", _listed(keys_file)

    signing, known = run(work, json=json)
    if json:
        print_json({"signing": signing or None, "keys": known.keys})
        return
    rows = [
        (
            key.key,
            "signs" if key.key == signing else "retired" if key.retired else "",
            moment(key.valid_from),
            moment(key.valid_until),
            key.note,
        )
        for key in known.keys
    ]
    if signing and known.find(signing) is None:
        rows.append((signing, "signs, not in the list", "–", "–", ""))
    out.print(table("", ("key", "", "valid from", "until", "note"), rows))


@keys_app.command()
def rotate(
    seed: SeedFile = None,
    keys: KeysFile = None,
    overlap: Annotated[
        float, typer.Option(min=0, help="Seconds the old key stays valid, for what is being signed now.")
    ] = 3600.0,
    note: Note = "",
    json: Json = False,
) -> None:
    """Sign with a new key from now on; what the old one signed stays good.

    Running workers take the new seed up by themselves when it is in a file.
    """
    from lucid_events.evidence.signing import Signer, generate_seed
    from lucid_events.service.keys import load_signer, save_keys, write_seed

    async def work() -> tuple[str, str]:
        seed_file, keys_file = _files(seed, keys)
        if keys_file is None:
            raise ConfigError(
                "rotating without a list of keys would leave the old one believed by nobody: "
                "name it by --keys or LUCID_SIGNING_KEYS"
            )
        old, made, now = load_signer(str(seed_file)).key, generate_seed(), datetime.now(UTC)
        new = Signer(made).key
        known = _listed(keys_file)
        if known.find(old) is None:
            raise ConfigError(
                f"the key that signs, {old}, is not in {keys_file}: add it before it is rotated"
            )
        # In this order a crash leaves the old key signing and believed, never one that nobody knows.
        save_keys(keys_file, known.add(new, at=now, note=note))
        write_seed(seed_file, made, replace=True)
        save_keys(
            keys_file,
            known.add(new, at=now, note=note).retire(old, until=now + timedelta(seconds=overlap)),
        )
        return old, new

    old, new = run(work, json=json)
    if json:
        print_json({"key": new, "retired": old})
    else:
        out.print(f"{new} signs from now on; {old} is retired", markup=False)


def _paths(seed: Path | None, keys: Path | None) -> tuple[Path | None, Path | None]:
    from lucid_events.service.keys import is_seed

    made = settings().evidence
    given = made.signing_seed if made.signing_seed and not is_seed(made.signing_seed) else ""
    return seed or (Path(given) if given else None), keys or (
        Path(made.signing_keys) if made.signing_keys else None
    )


def _files(seed: Path | None, keys: Path | None) -> tuple[Path, Path | None]:
    from lucid_events.service.keys import is_seed

    seed_file, keys_file = _paths(seed, keys)
    if seed_file is None or is_seed(str(seed_file)):
        raise ConfigError("name the file of the seed by --seed or LUCID_SIGNING_SEED")
    return seed_file, keys_file


def _listed(keys_file: Path | None) -> "KeyList":
    from lucid_events.evidence.keys import KeyList
    from lucid_events.service.keys import load_keys

    return load_keys(keys_file) if keys_file is not None and keys_file.exists() else KeyList()
