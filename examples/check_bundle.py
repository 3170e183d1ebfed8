"""Checks an audit bundle, following docs/bundle-format.md alone; that page says what is not checked here.

    python check_bundle.py bundle.tar [A…]

Prints what holds, or the first thing that does not, and ends with 0 or 7; 2: there was nothing to check. With
a key (A…) the manifest must be signed by it. zstd and lz4 chunks need those programs. Memory: a member."""

import base64
import binascii
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile

from nacl.signing import VerifyKey

HEADERS = ["ce-specversion", "ce-id", "ce-type", "ce-subject", "ce-time", "Lucid-Causation", "Lucid-Prev"]
SUFFIX = {"gzip": ".gz", "zstd": ".zst", "lz4": ".lz4", "store": ""}
LINE = ("sequence subject stored_at headers body", "sequence subject stored_at headers body_base64")
DESCRIPTION = ("format session log version messages head manifest chunks",)


def check(condition, message):
    if not condition:
        raise ValueError(message)


def sha256(*data):
    return hashlib.sha256(b"".join(data)).hexdigest()


def members(file):
    """Yield (name, data) of the tar; every other byte of it is checked, SHA256SUMS included."""
    sums = ""
    while True:
        at, block = file.tell(), file.read(512)
        name, size = block[:100].rstrip(b"\0").decode("ascii", "replace"), int(block[124:135], 8)
        wanted = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0, a plain file: as the format has it
        wanted.size = size
        check(block == wanted.tobuf(tarfile.USTAR_FORMAT), f"byte {at}: not the header {name!r} has to have")
        data, padding = file.read(size), file.read(-size % 512)
        check((len(data), padding) == (size, bytes(-size % 512)), f"byte {at}: {name} is short or not padded")
        if name == "SHA256SUMS":
            break
        sums += f"{sha256(data)}  {name}\n"
        yield name, data
    check(data == sums.encode() and file.read() == bytes(1024), "SHA256SUMS or what is behind it is wrong")


def parsed(text, names, where):
    """Return the value that `text` is the one spelling of; its members must be one of `names`."""
    value = json.loads(text)
    again = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    check(again == text and " ".join(value) in names, f"{where}: another spelling, or other members")
    return value


def frame(*parts):
    raw = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in raw)


def event_digest(subject, headers, body):
    named = sorted((k.lower(), v) for k, v in headers.items() if k.lower().startswith(("ce-", "lucid-")))
    return sha256(frame("lucid_events/event/v1", subject, *(part for pair in named for part in pair), body))


def node(*parts, tag=b"\x01"):
    return sha256(tag, *map(bytes.fromhex, parts))


def root(hashes):
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256()
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return node(root(hashes[:k]), root(hashes[k:]))


def proven_root(here, index, size, path):
    """Return where a proof of inclusion leads (RFC 9162, section 2.1.3): its last node is the topmost."""
    if size == 1:
        check(not path, "proofs.jsonl: a path is too long")
        return here
    k = 1 << (size - 1).bit_length() - 1
    if index < k:
        return node(proven_root(here, index, k, path[:-1]), path[-1])
    return node(path[-1], proven_root(here, index - k, size - k, path[:-1]))


class History:
    def __init__(self, text):
        self.session, self.version, self.messages, self.events, self.head = None, 0, 0, 0, None
        self.sealed, self.ready, self.erased, self.stopped = {}, {}, 0, (None, None, None, 0, {})
        *lines, rest = text.split(b"\n")
        check(lines and not rest, "events.jsonl: the last line has no end")
        for self.messages, line in enumerate(lines, 1):
            self.take(line, f"events.jsonl, line {self.messages}")
        self.there = {i: ready for i, (at, ready) in sorted(self.ready.items()) if at > self.erased}

    def take(self, text, where):
        line = parsed(text, LINE, where)
        body = line["body"].encode() if "body" in line else base64.b64decode(line["body_base64"])
        session = line["subject"].split(".")[2]
        self.session = self.session or session
        check(session == self.session and line["sequence"] > self.version, f"{where}: not of this history")
        self.version, headers = line["sequence"], line["headers"]
        if not headers.keys() >= set(HEADERS) or headers["ce-subject"] != session:
            return print(f"note: {where}: no event, but a stray message on {line['subject']}")
        check(headers["Lucid-Prev"] == (self.head or ""), f"{where}: the chain is broken")
        index = (data := json.loads(body)).get("index")
        match headers["ce-type"]:
            case "chunk.sealed.v1":
                self.sealed[index] = (data["size"], data["sha256"])
            case "chunk.ready.v1":
                sealed = self.sealed.pop(index, None) == (data["size"], data["sha256"])
                check(sealed and data["codec"] in SUFFIX, f"{where}: chunk {index} was not sealed so")
                self.ready[index] = (self.version, data)
            case "session.stopped.v1":
                self.stopped = (self.version, body, self.head, self.events, dict(sorted(self.ready.items())))
            case "session.cleanup_started.v1" | "session.destroyed.v1":
                self.erased = self.version
        self.head, self.events = event_digest(line["subject"], headers, body), self.events + 1


def check_manifest(history, key):
    _, body, head, events, covered = history.stopped
    m, chunks = json.loads(body)["manifest"], [chunk for _, chunk in covered.values()]
    made = {"chunks": len(chunks), "raw_bytes": sum(c["size"] for c in chunks), "events": events}
    made |= {"stored_bytes": sum(c["stored_size"] for c in chunks), "chain_head": head}
    made["merkle_root"] = root([node(c["sha256"], tag=b"\0") for c in chunks])
    for name, value in made.items():
        check(m[name] == value, f"manifest.json: {name} is {m[name]}, the history makes {value}")
    check(key in (None, m["key"]), f"manifest.json: signed by {m['key']}, not by {key}")
    if m["key"] is not None:
        raw = base64.b32decode(m["key"])
        check(raw[33:] == binascii.crc_hqx(b"\0" + raw[1:33], 0).to_bytes(2, "little"), f"{m['key']}: no key")
        names = "version chunks raw_bytes stored_bytes end_offset gap_bytes merkle_root chain_head events"
        gaps = [gap[end] for gap in m["gaps"] for end in ("start", "end")]
        codecs = [value for name, of in sorted(m["codecs"].items()) for value in (name, *of.values())]
        rest = [len(m["gaps"]), *gaps, len(m["failed"]), *m["failed"], len(m["codecs"]), *codecs]
        facts = [history.session, m["key"], *map(m.get, names.split())]
        message = frame("lucid_events/manifest/v1", *facts, *rest)
        VerifyKey(raw[1:33]).verify(message, base64.urlsafe_b64decode(m["signature"] + "=="))
    print(f"manifest: {m['chunks']} chunks, {m['raw_bytes']} bytes, signed by {m['key'] or 'nobody'}")
    return m["merkle_root"]


def member(parts, wanted):
    name, data = next(parts, ("the end", b""))
    check(name == wanted, f"{name} where {wanted} belongs")
    return data


def check_bundle(file, key):
    parts = members(file)
    member(parts, "README.md")
    history = History(member(parts, "events.jsonl"))
    data = member(parts, "bundle.json")
    *facts, said = parsed(data[:-1], DESCRIPTION, "bundle.json").values()
    first, last, *_ = said.values()
    here = {i: chunk for i, chunk in history.there.items() if first is not None and first <= i <= last}
    chunks = [min(here, default=None), max(here, default=None), len(here), len(history.ready)]
    made = ["lucid-bundle/1", history.session, facts[2], history.version, history.messages, history.head]
    fits = (facts, [*said.values()], data[-1:]) == ([*made, history.stopped[0]], chunks, b"\n")
    check(fits, f"bundle.json: not what the history makes: {made}, {chunks}")
    check(history.stopped[0] or not key, "there is no manifest to be signed")
    if history.stopped[0]:
        check(member(parts, "manifest.json") == history.stopped[1], "manifest.json: not what was stored")
        top, covered = check_manifest(history, key), list(history.stopped[4])
    if proven := [i for i in here if i in history.stopped[4]]:
        *lines, rest = member(parts, "proofs.jsonl").split(b"\n")
        check(len(lines) == len(proven) and not rest, "proofs.jsonl: not one line a chunk")
        for index, line in zip(proven, lines, strict=True):
            *place, path = parsed(line, ("index leaf size path",), "proofs.jsonl").values()
            led = proven_root(node(here[index]["sha256"], tag=b"\0"), *place[1:], path)
            right = [index, covered.index(index), len(covered)]
            check(led == top and place == right, f"proofs.jsonl: chunk {index} is not proven to be its leaf")
    for index, chunk in here.items():
        data = member(parts, f"chunks/{index:08d}{SUFFIX[chunk['codec']]}")
        stored, raw = (chunk["stored_size"], chunk["stored_sha256"]), (chunk["size"], chunk["sha256"])
        check((len(data), sha256(data)) == stored, f"chunk {index}: the stored bytes are others")
        if chunk["codec"] in ("zstd", "lz4"):
            data = subprocess.run([chunk["codec"], "-dc"], input=data, stdout=-1, check=True).stdout
        data = gzip.decompress(data) if chunk["codec"] == "gzip" else data
        check((len(data), sha256(data)) == raw, f"chunk {index}: the raw bytes are others")
    check(next(parts, None) is None, "there are more members than belong")
    print(f"{history.session}: {history.events} events, {len(here)} of {len(history.ready)} chunks hold")


if __name__ == "__main__":
    try:
        bundle = open(sys.argv[1], "rb")  # noqa: SIM115 - until the end
    except (IndexError, OSError) as problem:
        sys.exit(print(f"usage: check_bundle.py BUNDLE [KEY] ({problem})", file=sys.stderr) or 2)
    try:
        check_bundle(bundle, sys.argv[2] if len(sys.argv) > 2 else None)
    except Exception as problem:  # noqa: BLE001 - whatever a crafted file brings about, it does not hold
        sys.exit(print(f"does not hold: {type(problem).__name__}: {problem}", file=sys.stderr) or 7)
