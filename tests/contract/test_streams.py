"""Memory has the streams that are deployed, with the rules a caller can notice."""

from lucid_events.jetstream.definitions import load
from lucid_events.memory import MemoryServer
from lucid_events.subjects import Subjects


def test_memory_has_the_deployed_streams() -> None:
    """Names, subjects, work queue and messages per subject are those of the definitions."""
    subjects = Subjects("t")
    deployed = {
        definition.name: (
            tuple(definition.config["subjects"]),
            definition.config["retention"] == "workqueue",
            definition.config["max_msgs_per_subject"] == 1,
        )
        for definition in load(subjects)
        if definition.kind == "stream" and definition.name != subjects.advisories_stream
    }
    there = {s.name: (s.subjects, s.work_queue, s.last_per_subject) for s in MemoryServer(subjects).streams}
    assert there == deployed
