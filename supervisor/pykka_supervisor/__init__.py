"""Erlang-style supervision for any Pykka actor.

Actors that are restarted under the ref that everybody holds, supervisors with OTP's strategies,
monitors, timers, and an orderly end of the process. See docs/supervisor.md.
"""

import sys as _sys

if "t" in getattr(_sys, "abiflags", ""):
    raise ImportError(
        "pykka_supervisor does not run on free-threaded builds of CPython yet: its inboxes rely on the GIL."
        " Use the ordinary build, python3.14 and not python3.14t."
    )

from .actor import SupervisedActor
from .base import ChildCounts, ChildInfo, SupervisorRef
from .child import ChildSpec, ChildSpecLike
from .clock import SYSTEM_CLOCK, Clock, SystemClock, Timer
from .dispatch import DeferredReply
from .dynamic import DynamicSupervisor, DynamicSupervisorRef
from .ending import BeforeEnd, before_end
from .errors import (
    ActorKilledError,
    AlreadyPresentError,
    AlreadyStartedError,
    ChildNotFoundError,
    ChildRestartingError,
    ChildRunningError,
    IgnoreStart,
    InvalidSpecError,
    MaxChildrenError,
    NameTakenError,
    StartError,
    StartTimeoutError,
    SupervisorError,
)
from .exits import (
    Abandoned,
    Crash,
    Exit,
    Gone,
    Killed,
    NoProc,
    Normal,
    RemoteError,
    Shutdown,
    StartFailed,
    is_abnormal,
)
from .left_behind import leaked_threads
from .links import link
from .mailbox import Mailbox
from .monitor import Down, MonitorRef, demonitor, monitor
from .observe import ChildEndRecord, ChildGaveUpRecord, ChildRestartRecord, ChildStartRecord, TreeObserver
from .policy import GIVE_UP, Backoff, GiveUp
from .process import SignalHandling, stop_on_signals
from .ref import SupervisedRef, kill, root_of, supervisor_of, whereis
from .siblings import sibling
from .supervisor import StaticSupervisorRef, Supervisor
from .timers import cancel_timer, send_after
from .tree import Node, snapshot

__all__ = [
    "GIVE_UP",
    "SYSTEM_CLOCK",
    "Abandoned",
    "ActorKilledError",
    "AlreadyPresentError",
    "AlreadyStartedError",
    "Backoff",
    "BeforeEnd",
    "ChildCounts",
    "ChildEndRecord",
    "ChildGaveUpRecord",
    "ChildInfo",
    "ChildNotFoundError",
    "ChildRestartRecord",
    "ChildRestartingError",
    "ChildRunningError",
    "ChildSpec",
    "ChildSpecLike",
    "ChildStartRecord",
    "Clock",
    "Crash",
    "DeferredReply",
    "Down",
    "DynamicSupervisor",
    "DynamicSupervisorRef",
    "Exit",
    "GiveUp",
    "Gone",
    "IgnoreStart",
    "InvalidSpecError",
    "Killed",
    "Mailbox",
    "MaxChildrenError",
    "MonitorRef",
    "NameTakenError",
    "NoProc",
    "Node",
    "Normal",
    "RemoteError",
    "Shutdown",
    "SignalHandling",
    "StartError",
    "StartFailed",
    "StartTimeoutError",
    "StaticSupervisorRef",
    "SupervisedActor",
    "SupervisedRef",
    "Supervisor",
    "SupervisorError",
    "SupervisorRef",
    "SystemClock",
    "Timer",
    "TreeObserver",
    "before_end",
    "cancel_timer",
    "demonitor",
    "is_abnormal",
    "kill",
    "leaked_threads",
    "link",
    "monitor",
    "root_of",
    "send_after",
    "sibling",
    "snapshot",
    "stop_on_signals",
    "supervisor_of",
    "whereis",
]
