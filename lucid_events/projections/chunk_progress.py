"""How far the chunks of a session are: a watermark and the exceptions to it, never a list of all.

    index      0 1 2 3 4 5 6 7 8 9
    chunk      r r r p r r f p p       r ready, p sealed and waiting, f failed
    ready_below = 3, ready_ahead = 4-5, failed = 6-6, sealed = 9

Neighbours are merged into runs, so the size depends on how often the outcome alternates, not on
the number of chunks.
"""

from msgspec.structs import replace

from lucid_events.domain.values import Fact


class Run(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Chunks `first` to `last`, both included; `end` is the byte offset behind `last` where it matters."""

    first: int
    last: int
    end: int = 0


class ChunkProgress(Fact, frozen=True, kw_only=True):
    """Counts of a session's chunks.

    Every index below `ready_below` is ready; at or above it, those in `ready_ahead` are. `failed`
    are set aside. Every other index below `sealed` waits to be stored.
    """

    sealed: int = 0
    ready: int = 0
    ready_below: int = 0
    ready_ahead: tuple[Run, ...] = ()
    failed: tuple[Run, ...] = ()
    failed_count: int = 0

    @property
    def waiting(self) -> int:
        """How many are sealed and neither ready nor failed."""
        return self.sealed - self.ready - self.failed_count

    def is_ready(self, index: int) -> bool:
        """Return whether the chunk is stored."""
        return index < self.ready_below or _holds(self.ready_ahead, index)

    def is_failed(self, index: int) -> bool:
        """Return whether the chunk was set aside."""
        return _holds(self.failed, index)


def seal(progress: ChunkProgress, index: int) -> ChunkProgress:
    """Return the progress with chunk `index` sealed."""
    return replace(progress, sealed=max(progress.sealed, index + 1))


def make_ready(progress: ChunkProgress, index: int, end: int) -> tuple[ChunkProgress, int | None]:
    """Return the progress with chunk `index` ready, and the byte offset behind the watermark when it moved.

    The chunk must not be ready already (`is_ready`).
    """
    if index == progress.ready_below and not progress.failed and not progress.ready_ahead:
        return replace(progress, ready=progress.ready + 1, ready_below=index + 1), end
    failed, failed_count = progress.failed, progress.failed_count
    if _holds(failed, index):
        failed, failed_count = _without(failed, index), failed_count - 1
    ahead = _with(progress.ready_ahead, index, end)
    below, moved = progress.ready_below, None
    if ahead[0].first == below:
        below, moved, ahead = ahead[0].last + 1, ahead[0].end, ahead[1:]
    after = replace(
        progress,
        ready=progress.ready + 1,
        ready_below=below,
        ready_ahead=ahead,
        failed=failed,
        failed_count=failed_count,
    )
    return after, moved


def set_aside(progress: ChunkProgress, index: int) -> ChunkProgress:
    """Return the progress with chunk `index` failed; a chunk that is ready stays so."""
    if progress.is_ready(index) or progress.is_failed(index):
        return progress
    return replace(progress, failed=_with(progress.failed, index, 0), failed_count=progress.failed_count + 1)


def _holds(runs: tuple[Run, ...], index: int) -> bool:
    return any(run.first <= index <= run.last for run in runs)


def _with(runs: tuple[Run, ...], index: int, end: int) -> tuple[Run, ...]:
    before = [run for run in runs if run.last < index]
    behind = [run for run in runs if run.first > index]
    run = Run(first=index, last=index, end=end)
    if before and before[-1].last == index - 1:
        run = replace(run, first=before.pop().first)
    if behind and behind[0].first == index + 1:
        following = behind.pop(0)
        run = replace(run, last=following.last, end=following.end)
    return (*before, run, *behind)


def _without(runs: tuple[Run, ...], index: int) -> tuple[Run, ...]:
    kept: list[Run] = []
    for run in runs:
        if not run.first <= index <= run.last:
            kept.append(run)
            continue
        if run.first < index:
            kept.append(replace(run, last=index - 1))
        if index < run.last:
            kept.append(replace(run, first=index + 1))
    return tuple(kept)
