"""A large event is decoded without the collector walking it, and the application's own settings stay."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from gemini_streams.api import collector
from gemini_streams.api.collector import LARGE, collector_off
from gemini_streams.api.generate.meaning import Meaning
from gemini_streams.api.json_values import decode
from kit.helpers import eventually

MANY = 200_000
LISTS = b'{"candidates":[{"content":{"parts":[{"text":"x","lists":[%s[1]]}]}}]}' % (b"[1]," * MANY)
SMALL = b'{"lists":[%s[1]]}' % (b"[1]," * (LARGE // 8))


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """The test run freezes what it begins with; most applications do not."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """The collections that begin meanwhile: the threads in which they do."""
    begun: list[str] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            begun.append(threading.current_thread().name)

    gc.callbacks.append(note)
    yield begun
    gc.callbacks.remove(note)


def test_no_collection_walks_a_large_event_while_it_is_decoded(collections: list[str]) -> None:
    for way in (lambda: Meaning().read([LISTS]), lambda: decode(LISTS), lambda: decode(LISTS + b"\n \n")):
        del collections[:]
        value = way()
        assert len(collections) < 10  # one for every 700 lists otherwise
        assert gc.isenabled()
        del value


def test_a_small_one_is_left_to_the_collector(collections: list[str]) -> None:
    assert len(SMALL) < LARGE
    gc.collect()
    del collections[:]
    value = decode(SMALL)
    assert len(value["lists"]) == LARGE // 8 + 1
    if sys.version_info < (3, 12):  # since then a collection waits until the decoder, one call, has returned
        assert len(collections) > 10


def test_the_first_collection_behind_it_does_not_walk_it() -> None:
    value = decode(LISTS)
    assert gc.get_count()[0] < 10_000
    young = {id(each) for generation in (0, 1) for each in gc.get_objects(generation)}
    assert not any(id(each) in young for each in value["candidates"][0]["content"]["parts"][0]["lists"])


def test_a_collector_that_the_application_has_switched_off_stays_off() -> None:
    gc.disable()
    try:
        decode(LISTS)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_the_application_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        decode(LISTS)
        assert gc.get_freeze_count() > frozen / 2
        assert gc.isenabled()
        with collector_off():
            assert gc.isenabled()
    finally:
        gc.unfreeze()
    with collector_off():
        gc.freeze()
    try:
        assert gc.get_freeze_count()
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_the_last_of_several_threads_switches_it_on() -> None:
    inside, leave = threading.Event(), threading.Event()

    def decodes() -> None:
        with collector_off():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=decodes)
    thread.start()
    assert inside.wait(20)
    with collector_off():
        assert not gc.isenabled()
    assert not gc.isenabled()
    leave.set()
    thread.join(20)
    eventually(gc.isenabled)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_child_that_is_forked_meanwhile_has_a_collector() -> None:
    with collector_off():
        pid = os.fork()
        if pid == 0:
            os._exit(gc.isenabled() and collector._state.count == 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_an_event_that_is_no_json_leaves_it_on() -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(LISTS[:-1])
    assert gc.isenabled()
