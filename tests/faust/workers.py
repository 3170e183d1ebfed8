"""Worker processes of the counting app, and what they left behind on the server."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck

from lucid_events.faust_nats.link import NO_MESSAGE
from lucid_events.faust_nats.topology import Names, partition
from tests.faust.counting import IN, OUT, TABLE

ROOT = Path(__file__).resolve().parent.parent.parent
ENDING_S = 30.0
SENT_S = 3.0
ANSWER_S = 60.0
LOOK_S = 0.1


class Worker:
    """One worker process; started again after it died, as a supervisor would."""

    def __init__(self, number: int, folder: Path, **environment: str) -> None:
        self.number, self._folder = number, folder
        self._note = folder / f"member-{number}"
        self._environment = {**os.environ, **environment, "COUNTING_MEMBER": str(self._note)}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def log(self) -> Path:
        return self._folder / f"worker-{self.number}.log"

    @property
    def member(self) -> str:
        """The name of the process in its group, "" before it has one."""
        return self._note.read_text() if self._note.exists() else ""

    @property
    def ended(self) -> int | None:
        """How the process ended: a status, or minus the signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def stands(self) -> bool:
        """Whether all of the process is stopped."""
        assert self._process is not None
        # The signal stops one thread after the other.
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def start(self) -> None:
        self._note.unlink(missing_ok=True)
        self.starts += 1
        command = [sys.executable, "-m", "faust", "-A", "tests.faust.counting", "--datadir"]
        command += [str(self._folder / f"data-{self.number}"), "worker", "-l", "info", "--without-web"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keep_running(self) -> None:
        """Start it again if it ended."""
        if not self.running:
            self.start()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(ENDING_S)

    def stop(self) -> None:
        """End it in order; kill it when it does not."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                self.kill()


class Last(NamedTuple):
    """A message as it stands in a stream."""

    sequence: int
    headers: dict[str, str]
    data: bytes


class Truth:
    """What the server holds, read with a plain client."""

    def __init__(self, client: Client, ident: str, partitions: int, prefix: str = "faust") -> None:
        self._client, self.partitions = client, partitions
        self.names = Names(prefix, ident)
        self._ident = ident

    async def create_input(self) -> None:
        """Make the input topic as the driver would."""
        stream = self.names.stream(IN)
        config = {
            "name": stream,
            "subjects": [self.names.topic_subjects(IN)],
            "allow_direct": True,
            "metadata": {"faust.partitions": str(self.partitions), "faust.topic": IN},
        }
        await self._api(f"STREAM.CREATE.{stream}", config)

    async def send(self, events: list[tuple[str, int]], window: int = 200) -> None:
        """Append events to the input topic, each acknowledged; sent again while the server is away."""
        js = self._client.jetstream(timeout=60)
        for start in range(0, len(events), window):
            left = events[start : start + window]
            while left:
                futures = [(event, await self._publish(js, *event)) for event in left]
                await asyncio.wait([future for _, future in futures], timeout=SENT_S)
                left = [
                    event
                    for event, future in futures
                    if not future.done() or future.cancelled() or future.exception() is not None
                ]

    async def _publish(self, js: JetStreamContext, key: str, value: int) -> asyncio.Future[PubAck]:
        raw = key.encode()
        subject = self.names.message(IN, partition(raw, self.partitions), raw)
        return await js.publish_async(
            subject, str(value).encode(), headers={"Nats-Msg-Id": f"{key}-{value}"}, wait_stall=SENT_S
        )

    async def counts(self) -> Counter[str]:
        """The table, from its changelog."""
        found: Counter[str] = Counter()
        topic = f"{self._ident}-{TABLE}-changelog"
        for number in range(self.partitions):
            # A key that is written while this reads is met twice: the later one is its value.
            subjects = self.names.table_partition(topic, number)
            for subject, data in dict(await self._read(self.names.state_stream, subjects)).items():
                found[str(msgspec.json.decode(_key(subject)))] += int(data)
        return found

    async def offsets(self) -> dict[int, int]:
        """The committed offset of each partition of the input."""
        found = {}
        for number in range(self.partitions):
            records = await self._read(self.names.state_stream, self.names.offset(IN, number))
            found[number] = msgspec.json.decode(records[0][1])["next"] if records else 0
        return found

    async def echoes(self) -> Counter[tuple[str, int]]:
        """The messages sent on."""
        found: Counter[tuple[str, int]] = Counter()
        for subject, data in await self._read(self.names.stream(OUT), self.names.topic_subjects(OUT)):
            found[_key(subject).decode(), int(data)] += 1
        return found

    async def last(self, stream: str, subject: str) -> Last | None:
        """The last message on filter `subject`, None when there is none."""
        body = msgspec.json.encode({"last_by_subj": subject})
        answer = await self._answer(f"$JS.API.STREAM.MSG.GET.{stream}", body)
        if "message" not in answer:
            return None
        found = answer["message"]
        lines = base64.b64decode(found.get("hdrs") or "").decode().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        return Last(found["seq"], headers, base64.b64decode(found.get("data") or ""))

    async def _read(self, stream: str, subject: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        seq = 1
        while True:
            body = {"seq": seq, "next_by_subj": subject}
            answer = await self._answer(f"$JS.API.STREAM.MSG.GET.{stream}", msgspec.json.encode(body))
            if "message" not in answer:
                return found
            message = answer["message"]
            found.append((message["subject"], base64.b64decode(message.get("data") or "")))
            seq = message["seq"] + 1

    async def _answer(self, subject: str, body: bytes) -> dict[str, Any]:
        """Ask until there is an answer, "no such message" included: servers may be away, or elect."""
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        while True:
            try:
                reply = await self._client.request(subject, body, timeout=SENT_S)
                answer: dict[str, Any] = msgspec.json.decode(reply.data)
                if answer.get("error", {}).get("err_code", NO_MESSAGE) == NO_MESSAGE:
                    return answer
                why: object = answer["error"]
            except (TimeoutError, nats.errors.Error) as exc:
                why = exc
            assert asyncio.get_running_loop().time() < deadline, f"{subject}: {why!r}"
            await asyncio.sleep(LOOK_S)

    async def _api(self, name: str, body: dict[str, Any]) -> None:
        answer = msgspec.json.decode(
            (await self._client.request(f"$JS.API.{name}", msgspec.json.encode(body), timeout=30)).data
        )
        assert "error" not in answer, answer


async def connect(url: str | list[str]) -> Client:
    """Return a plain client that outlives restarts of the server."""
    return await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore)


async def _ignore(_: Exception) -> None:
    """The server is killed on purpose."""


def _key(subject: str) -> bytes:
    text = subject.rpartition(".")[2][1:]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
