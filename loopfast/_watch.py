"""watch(): an asynchronous iterator of changes in the file system.

The kernel only says where to look. What is reported is always the difference between what was there and what is there,
compared by lstat(): so an event too many does no harm, and after one too few a look at everything mends it.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import itertools
import os
import stat
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, TypeVar

from loopfast._loop import Loop
from loopfast.handles.fsevent import CHANGE, RENAME, FSEventQueue, UVFSEvent

__all__ = ["Change", "ChangeKind", "Watch", "watch"]

_R = TypeVar("_R")

#: Names; more of them are looked at in a thread of the loop's executor, as whole directories always are.
MOST_AT_ONCE: Final = 64
#: Directories that are opened between two looks at the loop.
DIRECTORIES_PER_TURN: Final = 256
#: Names that are compared between two looks at the loop.
NAMES_PER_TURN: Final = 512
#: Nanoseconds for which a file system's clock may stand still, so that two writes leave the same times.
CLOCK_STEP: Final = 20_000_000
#: As many links lead to another file at most (the kernel's limit).
MOST_LINKS: Final = 40


class ChangeKind(enum.Enum):
    """What happened to a file or directory."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    #: `Change.old_path` now has the name `Change.path`; so has everything in it, if it is a directory.
    RENAMED = "renamed"
    #: There were more events than the kernel keeps. `Change.path` is the watched path; everything below it has been
    #: compared anew, and the changes that come with this one are what came of that.
    OVERFLOW = "overflow"


class Change(NamedTuple):
    """One change of the file system.

    Args:
        kind: what happened.
        path: to what; begins with the path that `watch` was given.
        old_path: its name before, if it was renamed.
    """

    kind: ChangeKind
    path: Path
    old_path: Path | None = None


class _Seen(NamedTuple):
    """What is remembered of a file or directory."""

    device: int
    inode: int
    mode: int
    #: Of a directory the numbers of its user and group; its size and times change with what is in it.
    size: int
    owner: int
    modified: int
    changed: int
    #: It was looked at so soon after its last change that another one could have left the same times.
    is_fresh: bool

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def differs(self, other: _Seen) -> bool:
        if self.is_directory:
            return self[:5] != other[:5]
        return self[:7] != other[:7]

    def is_same_file(self, other: _Seen) -> bool:
        """Return True if *other* is this very file under another name, rather than one that got its number."""
        return self[:2] == other[:2] and self.modified == other.modified and self[3:5] == other[3:5]


def _seen(found: os.stat_result, now: int) -> _Seen:
    is_directory = stat.S_ISDIR(found.st_mode)
    return _Seen(
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_uid if is_directory else found.st_size,
        found.st_gid if is_directory else 0,
        found.st_mtime_ns,
        found.st_ctime_ns,
        now - max(found.st_ctime_ns, found.st_mtime_ns) < CLOCK_STEP,
    )


class _Directory:
    """A watched directory and what was in it: of its files what was seen, of its directories their own record."""

    __slots__ = ("entries", "event", "is_gone", "old_path", "path", "seen", "token")

    def __init__(self, path: str, seen: _Seen) -> None:
        self.path = path
        #: What it was at the last report, None if it is new since then.
        self.old_path: str | None = None
        self.seen = seen
        self.entries: dict[str, _Entry] = {}
        self.event: UVFSEvent | None = None
        self.token = -1
        self.is_gone = False

    def inside(self) -> list[_Directory]:
        """This directory and all below it, parents first."""
        found = [self]
        for directory in found:
            found.extend(entry for entry in directory.entries.values() if isinstance(entry, _Directory))
        return found


_Entry = _Seen | _Directory
#: A name in a directory, which may itself be renamed.
_Place = tuple[_Directory, str]


def _seen_of(entry: _Entry) -> _Seen:
    return entry.seen if isinstance(entry, _Directory) else entry


#: What a look at a path gave: nothing is there, or it may not be looked at.
_Found = _Seen | OSError | None
_GONE = (FileNotFoundError, NotADirectoryError)


def _look_at(path: str, ask: Callable[[str], os.stat_result] = os.lstat) -> _Found:
    try:
        # The clock first: a change after it makes the file fresh.
        now = time.time_ns()
        return _seen(ask(path), now)
    except _GONE:
        return None
    except OSError as exc:
        return exc


def _list(path: str) -> dict[str, _Found] | OSError:
    try:
        with os.scandir(path) as found:
            names = [entry.name for entry in found]
    except OSError as exc:
        return exc
    return {name: _look_at(os.path.join(path, name)) for name in names}


class _Inbox:
    """Where the events of one `Watch` arrive. It knows nothing of the watch, so that a dropped one is freed at once."""

    def __init__(self) -> None:
        self.tokens: set[int] = set()
        self.has_overflowed = False
        self.is_closed = False
        #: Grows with every arrival.
        self.count = 0
        self.waiter: asyncio.Future[None] | None = None

    def put(self, token: int) -> None:
        self.tokens.add(token)
        self._wake()

    def overflow(self) -> None:
        self.has_overflowed = True
        self._wake()

    def close(self) -> None:
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        self.count += 1
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until something is there, or until the end."""
        while not self.tokens and not self.has_overflowed and not self.is_closed:
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None


def _queue_length() -> int:
    """The events that the kernel keeps for one loop."""
    try:
        with open("/proc/sys/fs/inotify/max_queued_events", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 16384


class _Queue:
    """What the watches of one loop share."""

    def __init__(self) -> None:
        inboxes: weakref.WeakSet[_Inbox] = weakref.WeakSet()

        def on_full() -> None:
            for inbox in inboxes:
                inbox.overflow()

        self.inboxes = inboxes
        self.native = FSEventQueue(_queue_length(), on_full)


_queues: weakref.WeakKeyDictionary[Loop, _Queue] = weakref.WeakKeyDictionary()


def _explained(error: OSError, path: str) -> OSError:
    """Name the path, and the limit that was reached."""
    text = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        text = "no inotify watch left for this user (fs.inotify.max_user_watches)"
    elif error.errno == errno.EMFILE:
        text = "no inotify instance or file descriptor left (fs.inotify.max_user_instances, ulimit -n)"
    return OSError(error.errno, text, path)


class _Closed(Exception):
    """The watch was closed while it looked at something."""


class _Target:
    """What directories and files have in common as targets: opens the handles, asks the system for what is there."""

    def __init__(self, loop: Loop, inbox: _Inbox, path: str, name: str, ignore_permission_denied: bool) -> None:
        """Args: *path* is absolute, *name* is what the user gave for it."""
        self.loop = loop
        self.inbox = inbox
        self.path = path
        self.name = name
        self.ignore_permission_denied = ignore_permission_denied
        self.tokens = itertools.count()
        #: There is nothing left that could change.
        self.has_ended = False
        #: A look was interrupted: nobody knows what it has missed.
        self.is_unsure = False
        #: Not reported yet.
        self.has_overflowed = False
        if loop not in _queues:
            _queues[loop] = _Queue()
        self.queue = _queues[loop]
        self.queue.inboxes.add(inbox)

    async def start(self) -> None:
        raise NotImplementedError

    async def look(self) -> list[Change]:
        """Compare what the events named, or everything after an overflow; return what has changed."""
        raise NotImplementedError

    def is_concerned(self) -> bool:
        """Return False if the events that have come are those of others."""
        return True

    def close(self) -> None:
        raise NotImplementedError

    def open(self, path: str) -> tuple[UVFSEvent, int]:
        if self.inbox.is_closed:
            raise _Closed
        token = next(self.tokens)
        try:
            return UVFSEvent(self.loop, self.queue.native, path, self.inbox.put, token), token
        except OSError as exc:
            raise _explained(exc, path) from None

    async def in_thread(self, function: Callable[[str], _R], paths: list[str]) -> list[_R]:
        """Call *function* with each of *paths*, where it does not hold up the loop."""
        return await self.loop.run_in_executor(None, lambda: [function(path) for path in paths])

    def change(self, kind: ChangeKind, path: str, old_path: str | None = None) -> Change:
        return Change(kind, self.shown(path), None if old_path is None else self.shown(old_path))

    def shown(self, path: str) -> Path:
        return Path(self.name + path[len(self.path) :])


class _Tree(_Target):
    """A directory, or it and all below it."""

    def __init__(
        self, loop: Loop, inbox: _Inbox, path: str, name: str, ignore_permission_denied: bool, recursive: bool
    ) -> None:
        super().__init__(loop, inbox, path, name, ignore_permission_denied)
        self.recursive = recursive
        self.root = _Directory(path, _seen(os.stat(path), time.time_ns()))
        #: By token, those that are watched.
        self.directories: dict[int, _Directory] = {}
        # What was found since the last report.
        #: By the path of then.
        self.gone: dict[str, _Entry] = {}
        self.came: dict[_Place, _Entry] = {}
        self.modified: dict[_Place, None] = {}
        self.renamed: dict[_Directory, None] = {}
        self.is_root_modified = False

    def close(self) -> None:
        for directory in self.directories.values():
            if directory.event is not None:
                directory.event.close()
        self.directories.clear()

    # ------------------------------------------------------------------------------------------------- looking

    async def start(self) -> None:
        await self.settle([self.root])
        self.report()
        self.root.old_path = self.path

    async def look(self) -> list[Change]:
        dirty: list[tuple[_Directory, dict[str, int]]] = []
        everything = self.has_overflowed or self.is_unsure
        # Until this is through.
        self.is_unsure = True
        for token in self.inbox.tokens:
            directory = self.directories.get(token)
            if directory is not None and directory.event is not None:
                names, is_lossy = directory.event.take()
                self.has_overflowed |= is_lossy
                dirty.append((directory, names))
        self.inbox.tokens.clear()
        everything |= self.has_overflowed
        replaced = False
        if everything or any(directory is self.root for directory, _ in dirty):
            replaced = self.look_at_root()
        if everything and not self.has_ended:
            # Watched anew, too: a directory may have been replaced by one that has got its number.
            await self.settle(self.root.inside(), reopen=True)
        elif not self.has_ended:
            await self.look_at_names(dirty)
            if replaced:
                await self.settle([self.root], reopen=True)
        changes = self.report()
        if self.has_overflowed:
            changes.insert(0, self.change(ChangeKind.OVERFLOW, self.path))
        self.has_overflowed = self.is_unsure = False
        return changes

    def look_at_root(self) -> bool:
        """Look at the directory itself, which has no parent that tells of it; return True if it is another one."""
        found = _look_at(self.path, os.stat)
        if isinstance(found, OSError):
            # It may be there as it was.
            raise found
        if found is None or not found.is_directory:
            self.gone[self.path] = self.root
            self.drop(self.root)
            self.is_root_modified = False
            self.has_ended = True
            return False
        replaced = found[:2] != self.root.seen[:2]
        if found.differs(self.root.seen):
            self.is_root_modified = True
        self.root.seen = found
        return replaced

    async def look_at_names(self, dirty: list[tuple[_Directory, dict[str, int]]]) -> None:
        paths = [directory.path for directory, _ in dirty]
        paths += [os.path.join(directory.path, name) for directory, names in dirty for name in names]
        if len(paths) <= MOST_AT_ONCE:
            found = [_look_at(path) for path in paths]
        else:
            found = await self.in_thread(_look_at, paths)
        again: list[_Directory] = []
        own_name = self.path.rpartition(os.sep)[2]
        answers = iter(found)
        for (directory, _), seen in zip(dirty, answers, strict=False):
            if isinstance(seen, _Seen) and seen[:3] == directory.seen[:3]:
                # By its time it will be known again under another name.
                directory.seen = directory.seen._replace(modified=seen.modified)
        count = 0
        for directory, names in dirty:
            for name, bits in names.items():
                seen = next(answers)
                count += 1
                if count % NAMES_PER_TURN == 0:
                    await asyncio.sleep(0)
                if directory.is_gone:
                    continue
                if directory is self.root and name == own_name and bits & RENAME:
                    # So libuv says that it is the directory itself which is gone: this may be another one.
                    again.append(directory)
                if name not in ("", ".", ".."):
                    self.compare(directory, name, seen, bits, again)
        await self.settle(again, reopen=True)

    async def settle(self, directories: list[_Directory], reopen: bool = False) -> None:
        """Watch and list *directories* and those that are found new in them, until there are no more.

        Args:
            reopen: watch those of the list that are watched already, too.
        """
        while directories := self.adopted(directories):
            following: list[_Directory] = []
            for start in range(0, len(directories), DIRECTORIES_PER_TURN):
                group = [
                    directory
                    for directory in directories[start : start + DIRECTORIES_PER_TURN]
                    if not directory.is_gone and self.watch(directory, reopen)
                ]
                listed = await self.in_thread(_list, [directory.path for directory in group])
                for directory, found in zip(group, listed, strict=True):
                    self.compare_all(directory, found, following)
            directories, reopen = following, False

    def watch(self, directory: _Directory, reopen: bool) -> bool:
        """Have *directory* watched; return False where there is nothing to watch any more."""
        old, old_token = directory.event, directory.token
        if old is not None and not reopen:
            return True
        try:
            event, token = self.open(directory.path)
        except OSError as exc:
            if directory is self.root and old is None:
                # The user's mistake, rather than a change.
                raise
            if not isinstance(exc, _GONE):
                self.refused(exc)
            return False
        directory.event, directory.token = event, token
        self.directories[token] = directory
        if old is not None:
            # Not before: a new watch on the same directory is the same for the kernel, and nothing is missed.
            self.directories.pop(old_token, None)
            old.close()
        return True

    def refused(self, error: OSError) -> None:
        """Raise *error*, unless it is of the kind that the user does not care for."""
        if not (self.ignore_permission_denied and isinstance(error, PermissionError)):
            raise error

    # ------------------------------------------------------------------------------------------------- comparing

    def compare_all(
        self, directory: _Directory, listed: dict[str, _Found] | OSError, following: list[_Directory]
    ) -> None:
        if directory.is_gone:
            return
        if isinstance(listed, OSError):
            if not isinstance(listed, _GONE):
                self.refused(listed)
            # Its parent tells that it is gone.
            return
        for name in [name for name in directory.entries if name not in listed]:
            self.compare(directory, name, None, 0, following)
        for name, found in listed.items():
            self.compare(directory, name, found, 0, following)

    def compare(self, directory: _Directory, name: str, found: _Found, bits: int, following: list[_Directory]) -> None:
        """Note how *found* differs from what is known of *name*. Directories to be listed then go to *following*."""
        known = directory.entries.get(name)
        if isinstance(found, OSError):
            self.refused(found)
            found = None
        if known is not None:
            before = _seen_of(known)
            if found is not None and before[:2] == found[:2] and stat.S_IFMT(before.mode) == stat.S_IFMT(found.mode):
                if before.differs(found) or (bits & CHANGE and before.is_fresh and not found.is_directory):
                    self.modified[directory, name] = None
                if not isinstance(known, _Directory):
                    directory.entries[name] = found
                    return
                known.seen = found
                if bits & RENAME or known.event is None:
                    # Perhaps a new one with the number of the old.
                    following.append(known)
                return
            self.remove(directory, name, known)
        if found is not None:
            entry: _Entry = found
            if found.is_directory and self.recursive:
                entry = _Directory(os.path.join(directory.path, name), found)
                following.append(entry)
            directory.entries[name] = entry
            self.came[directory, name] = entry

    def remove(self, directory: _Directory, name: str, known: _Entry) -> None:
        del directory.entries[name]
        self.modified.pop((directory, name), None)
        if self.came.pop((directory, name), None) is None:
            # It was there at the last report, and so was the directory.
            old_path = known.old_path if isinstance(known, _Directory) else _old_path(directory, name)
            assert old_path is not None
            self.gone[old_path] = known
        if isinstance(known, _Directory):
            self.drop(known)

    def drop(self, directory: _Directory) -> None:
        """Stop watching a directory that is gone; what was in it at the last report stays known until the next."""
        for inner in directory.inside():
            inner.is_gone = True
            if inner.event is not None:
                inner.event.close()
                inner.event = None
                self.directories.pop(inner.token, None)
            for name in list(inner.entries):
                if self.came.pop((inner, name), None) is not None:
                    del inner.entries[name]

    def adopted(self, directories: list[_Directory]) -> list[_Directory]:
        """Put old directories in the place of new ones that are the same under another name."""
        gone = {entry.seen[:2]: path for path, entry in self.gone.items() if isinstance(entry, _Directory)}
        if not gone:
            return directories
        places = {entry: place for place, entry in self.came.items() if isinstance(entry, _Directory)}
        result = []
        for directory in directories:
            place = places.get(directory)
            old_path = gone.get(directory.seen[:2])
            old = None if old_path is None else self.gone[old_path]
            if (
                place is None
                or old_path is None
                or not isinstance(old, _Directory)
                or not old.seen.is_same_file(directory.seen)
            ):
                result.append(directory)
                continue
            del gone[directory.seen[:2]], self.gone[old_path], self.came[place]
            place[0].entries[place[1]] = old
            old.path, old.seen = directory.path, directory.seen
            self.renamed[old] = None
            for inner in old.inside():
                inner.is_gone = False
                for name, entry in inner.entries.items():
                    if isinstance(entry, _Directory):
                        entry.path = os.path.join(inner.path, name)
                result.append(inner)
        return result

    # ------------------------------------------------------------------------------------------------- reporting

    def report(self) -> list[Change]:
        """What was found, as changes; nothing is kept."""
        gone = self.all_gone()
        renamed = [
            (directory.old_path, directory.path)
            for directory in self.renamed
            if not directory.is_gone and directory.old_path not in (None, directory.path)
        ]
        files = {entry[:2]: path for path, entry in gone.items() if not isinstance(entry, _Directory)}
        came = dict(self.came)
        for (parent, name), entry in self.came.items():
            old_path = None if isinstance(entry, _Directory) else files.get(entry[:2])
            if old_path is None or old_path == _old_path(parent, name):
                continue
            if _seen_of(gone[old_path]).is_same_file(_seen_of(entry)):
                del files[_seen_of(entry)[:2]], gone[old_path], came[parent, name]
                renamed.append((old_path, os.path.join(parent.path, name)))
        created, modified = [], []
        for (parent, name), entry in came.items():
            old_path = _old_path(parent, name)
            before = None if old_path is None else gone.get(old_path)
            if old_path is None or before is None or not _is_replaced(_seen_of(before), _seen_of(entry)):
                created.append(os.path.join(parent.path, name))
            else:
                del gone[old_path]
                modified.append(os.path.join(parent.path, name))
        modified += [
            os.path.join(parent.path, name)
            for parent, name in self.modified
            if not parent.is_gone and (parent, name) not in self.came
        ]
        if self.is_root_modified:
            modified.append(self.path)
        # What was in a directory before the directory.
        deleted = sorted(gone, key=lambda path: path.count(os.sep), reverse=True)
        changes = [self.change(ChangeKind.DELETED, path) for path in deleted]
        changes += [self.change(ChangeKind.RENAMED, path, old_path) for old_path, path in renamed]
        changes += [self.change(ChangeKind.CREATED, path) for path in created]
        changes += [self.change(ChangeKind.MODIFIED, path) for path in modified]
        self.forget_changes()
        return changes

    def all_gone(self) -> dict[str, _Entry]:
        """What is gone and all that was in it, by the path of the last report."""
        gone: dict[str, _Entry] = {}
        for path, top in self.gone.items():
            gone[path] = top
            for inner in top.inside() if isinstance(top, _Directory) else ():
                for name, entry in inner.entries.items():
                    old_path = entry.old_path if isinstance(entry, _Directory) else _old_path(inner, name)
                    if old_path is not None:
                        gone[old_path] = entry
        return gone

    def forget_changes(self) -> None:
        for directory in self.renamed:
            for inner in directory.inside():
                inner.old_path = inner.path
        for entry in self.came.values():
            if isinstance(entry, _Directory):
                entry.old_path = entry.path
        self.gone, self.came, self.modified, self.renamed = {}, {}, {}, {}
        self.is_root_modified = False


def _old_path(directory: _Directory, name: str) -> str | None:
    """The path of *name* at the last report, None if the directory is new since then."""
    return None if directory.old_path is None else os.path.join(directory.old_path, name)


def _is_replaced(before: _Seen, now: _Seen) -> bool:
    """Return True if users would say of one name that it was modified, though it is another file now."""
    return not before.is_directory and stat.S_IFMT(before.mode) == stat.S_IFMT(now.mode)


class _File(_Target):
    """A file, by way of the directories that hold it and the links that lead to it: so a replaced one is seen, too."""

    def __init__(self, loop: Loop, inbox: _Inbox, path: str, name: str, ignore_permission_denied: bool) -> None:
        super().__init__(loop, inbox, path, name, ignore_permission_denied)
        self.events: dict[int, UVFSEvent] = {}
        #: The path, and where it leads if it is a link.
        self.chain: list[str] = []
        #: Names -> bits of the events that have come.
        self.names: dict[str, int] = {}
        self.seen: _Found = None

    def close(self) -> None:
        for event in self.events.values():
            event.close()
        self.events.clear()

    def links(self) -> list[str]:
        found = [self.path]
        while len(found) <= MOST_LINKS:
            try:
                target = os.readlink(found[-1])
            except OSError as exc:
                if exc.errno == errno.EINVAL or isinstance(exc, _GONE):
                    # No link, or nothing there.
                    break
                raise
            found.append(os.path.join(os.path.dirname(found[-1]), target))
        return found

    def open_all(self) -> None:
        """Watch where the links are now."""
        chain: list[str] = []
        while chain != (chain := self.links()):
            old = dict(self.events)
            for folder in dict.fromkeys(os.path.dirname(path) or os.sep for path in chain):
                event, token = self.open(folder)
                self.events[token] = event
            for token, event in old.items():
                event.close()
                del self.events[token]
        self.chain = chain

    async def start(self) -> None:
        self.open_all()
        self.seen = _look_at(self.path, os.stat)
        if isinstance(self.seen, OSError):
            raise self.seen

    def is_concerned(self) -> bool:
        for token in self.inbox.tokens:
            event = self.events.get(token)
            if event is not None:
                names, is_lossy = event.take()
                self.has_overflowed |= is_lossy
                for name, bits in names.items():
                    self.names[name] = self.names.get(name, 0) | bits
        self.inbox.tokens.clear()
        if not self.names.keys() & {part for path in self.chain for part in path.split(os.sep)[-2:]}:
            # Of a link, any directory on the way may be one, too.
            if len(self.chain) == 1:
                self.names.clear()
            return self.has_overflowed or self.inbox.has_overflowed or bool(self.names)
        return True

    async def look(self) -> list[Change]:
        self.is_concerned()
        names, self.names = self.names, {}
        changes = []
        if self.has_overflowed:
            changes.append(self.change(ChangeKind.OVERFLOW, self.path))
        self.is_unsure = False
        try:
            if self.has_overflowed or self.links() != self.chain or any(bits & RENAME for bits in names.values()):
                self.open_all()
        except _GONE:
            folder = _look_at(os.path.dirname(self.path), os.stat)
            if isinstance(folder, OSError):
                raise folder from None
            self.has_ended = folder is None or not folder.is_directory
        self.has_overflowed = False
        before, self.seen = self.seen, _look_at(self.path, os.stat)
        if isinstance(self.seen, OSError):
            raise self.seen
        if isinstance(before, _Seen) and isinstance(self.seen, _Seen):
            told = any(bits & CHANGE and name == os.path.basename(self.chain[-1]) for name, bits in names.items())
            if before.differs(self.seen) or (told and before.is_fresh):
                changes.append(self.change(ChangeKind.MODIFIED, self.path))
        elif before is not None or self.seen is not None:
            kind = ChangeKind.CREATED if before is None else ChangeKind.DELETED
            changes.append(self.change(kind, self.path))
        return changes


class Watch:
    """What `watch` returns: an asynchronous iterator of lists of `Change`, and an asynchronous context manager.

    Watching begins with the first step of the iteration, or on entering ``async with``. It ends with `aclose`, on
    leaving ``async with``, when the loop closes, and when nothing refers to the watch any more: so also where a loop
    over it is left or cancelled. A step that is cancelled loses nothing; the next one goes on.
    """

    def __init__(
        self, path: str, recursive: bool, debounce: float, max_delay: float, ignore_permission_denied: bool
    ) -> None:
        self._path = path
        self._recursive = recursive
        self._debounce = debounce
        self._max_delay = max_delay
        self._ignore_permission_denied = ignore_permission_denied
        self._inbox = _Inbox()
        self._target: _Target | None = None
        self._is_stepping = False

    def __repr__(self) -> str:
        state = "closed" if self._inbox.is_closed else "watching" if self._target else "not started"
        return f"<{type(self).__name__} {self._path!r} {state}>"

    def __del__(self) -> None:
        self.close()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Change]:
        self._loop()
        if self._is_stepping:
            raise RuntimeError("another task is waiting for this watch")
        self._is_stepping = True
        try:
            changes = await _next_changes(await self._start(), self._debounce, self._max_delay)
            if not changes:
                raise StopAsyncIteration
            return changes
        except _Closed:
            raise StopAsyncIteration from None
        except Exception:
            self.close()
            raise
        finally:
            self._is_stepping = False
            # So that a cancellation whose traceback somebody keeps does not keep the watch.
            del self

    async def __aenter__(self) -> Watch:
        try:
            await self._start()
        except _Closed:
            raise RuntimeError("this watch is closed") from None
        except Exception:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Stop watching; a task that waits for the next changes sees the end of the iteration. Idempotent."""
        self.close()

    def close(self) -> None:
        """Do as `aclose` does, from code that cannot await."""
        self._inbox.close()
        if self._target is not None:
            self._target.close()

    def _loop(self) -> Loop:
        """The running loop, which must be one of ours, and always the same."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, Loop):
            raise TypeError(
                f"loopfast.watch() needs a loopfast event loop; the running one is a {type(loop).__module__}."
                f"{type(loop).__qualname__} (use loopfast.run() or loopfast.install())"
            )
        if self._target is not None and self._target.loop is not loop:
            raise RuntimeError("this watch belongs to another event loop")
        return loop

    async def _start(self) -> _Target:
        loop = self._loop()
        if self._is_closed():
            raise _Closed
        if self._target is not None:
            return self._target
        path = self._path if os.path.isabs(self._path) else os.path.join(os.getcwd(), self._path)
        arguments = loop, self._inbox, path, self._path, self._ignore_permission_denied
        is_directory = stat.S_ISDIR(os.stat(self._path).st_mode)
        target = _Tree(*arguments, self._recursive) if is_directory else _File(*arguments)
        try:
            await target.start()
        except BaseException:
            target.close()
            raise
        self._target = target
        if self._is_closed():
            target.close()
            raise _Closed
        return target

    def _is_closed(self) -> bool:
        return self._inbox.is_closed


async def _next_changes(target: _Target, debounce: float, max_delay: float) -> list[Change]:
    """Wait for changes of *target*; there are none at its end."""
    inbox = target.inbox
    while not target.has_ended:
        if not target.is_unsure:
            await inbox.wait()
            if not inbox.is_closed and not target.is_concerned():
                continue
            await _settled(inbox, debounce, max_delay)
        if inbox.is_closed:
            break
        target.has_overflowed |= inbox.has_overflowed
        inbox.has_overflowed = False
        if changes := await target.look():
            return changes
    return []


async def _settled(inbox: _Inbox, debounce: float, max_delay: float) -> None:
    """Wait until nothing has come for *debounce* seconds, but not longer than *max_delay*."""
    loop = asyncio.get_running_loop()
    latest = loop.time() + max_delay
    while not inbox.is_closed:
        count = inbox.count
        await asyncio.sleep(max(0, min(debounce, latest - loop.time())))
        if inbox.count == count or loop.time() >= latest:
            break


def watch(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    recursive: bool = True,
    debounce: float = 0.05,
    max_delay: float = 1.0,
    ignore_permission_denied: bool = False,
) -> Watch:
    """Watch a directory or file: ``async for changes in loopfast.watch(path)`` gives lists of `Change`.

    Each list is the difference between two looks: what was created and deleted again in between is not in it, and
    several writes are one. The last state is always reported, however fast changes come. In a list, deletions come
    first, then renamings, creations and modifications; deleted and old names are those of before, all others those of
    now. Of a directory, everything in it is watched but not followed, if it is a link. Of a file,
    also what replaces it is watched, and the file that a link leads to. A watched directory that is deleted or renamed
    is reported as deleted, and ends the iteration.

    Args:
        path: the directory or file; a link to one is followed.
        recursive: watch the directories below, too, also those that are made later.
        debounce: seconds without a further event after which changes are reported.
        max_delay: seconds after which they are reported even if events go on to come.
        ignore_permission_denied: leave out what below *path* may not be read, instead of raising.

    Returns:
        A `Watch`. It must be used in a running loopfast loop.

    Raises:
        TypeError: *path* is no path; or, in the first step, the running loop is another one than loopfast's.
        ValueError: *debounce* or *max_delay* is negative.
        OSError: in a step: *path* does not exist, something may not be read, or the system's limit of watches is
            reached (ENOSPC). ``filename`` tells where. The watch is closed then.

    Source: https://docs.libuv.org/en/v1.x/fs_event.html, https://man7.org/linux/man-pages/man7/inotify.7.html
    """
    for name, value in (("debounce", debounce), ("max_delay", max_delay)):
        if not value >= 0:
            raise ValueError(f"{name} is a number of seconds, zero or more, got {value!r}")
    name = os.fsdecode(path)
    return Watch(name.rstrip(os.sep) or name[:1], recursive, debounce, max_delay, ignore_permission_denied)
