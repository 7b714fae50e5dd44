"""`python -m gemini_streams`: a demonstration of many streams at once, and one answer from the shell.

The rules:

- Which Gemini is asked is said before it is asked. Without a key the demonstration brings a local one along.
- One thread, the main one, folds, draws and writes; the actors only hand their messages over. So whatever goes wrong
  with the terminal, a Ctrl-C among it, happens where it can be cleared up after.
- What a model says is written to a terminal without its control characters.
- Exit codes: 0 as it should be, 1 not so (with one line on standard error), 2 wrong arguments, 130 interrupted.
- Where standard output is closed nothing is asked. Where it cannot be written any more, the command ends with 1; a
  reader that has left needs no line about it. No way of ending shows a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.metadata
import io
import logging
import os
import queue
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TextIO

import pykka

from gemini_streams.answer import Answer
from gemini_streams.api.endpoint import Gemini
from gemini_streams.errors import (
    APIError,
    ConnectionFailedError,
    GeminiStreamsError,
    MissingCredentialsError,
)
from gemini_streams.iterate import stream
from gemini_streams.manager import ManagerActor, ManagerRef
from gemini_streams.messages import (
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberMessage,
)
from gemini_streams.options import DEFAULT_MODEL, RetryPolicy
from gemini_streams.testing import Failure, LocalGemini, Reply
from pykka_supervisor import kill

__all__ = ["main"]

INTERRUPTED = 130
_FRAME = 0.05
_SPARE_TIME = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="replace")  # a terminal that cannot show a character shows something else
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except GeminiStreamsError as error:
        _complain(f"{_name(error)}{error}{_advice(error)}")
    except BrokenPipeError:  # whoever read our output has left
        pass
    except OSError as error:
        _complain(error.strerror or str(error))
    except UnicodeDecodeError:
        _complain("standard input is no text in UTF-8")
    _mute(sys.stdout)
    return 1


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # it has printed the help, or what is wrong
        _mute(sys.stderr)
        if sys.stdout is not None:
            sys.stdout.flush()
        raise
    if sys.stdout is None:  # Python's word for a closed one
        raise OSError(errno.EBADF, "standard output is closed: there is nowhere to write to")
    code: int = options.run(options)
    sys.stdout.flush()
    return code


def _mute(file: TextIO | None) -> None:
    """Let nothing more be written to a file that fails: Python would try once more at its end, and complain."""
    if file is None:
        return
    try:
        file.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, file.fileno())
            os.close(null)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemini_streams",
        description="Many supervised streaming sessions with Google's Gemini API at once, as Pykka actors.",
        epilog="The key is read from GOOGLE_API_KEY or GEMINI_API_KEY, the base URL from GOOGLE_GEMINI_BASE_URL,"
        " as google-genai does. Keys are made at https://aistudio.google.com/apikey.",
    )
    version = importlib.metadata.version("gemini-streams")
    parser.add_argument("--version", action="version", version=f"gemini-streams {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="demo | ask")

    demo = commands.add_parser(
        "demo",
        help="several streams at once, live and side by side; needs no key",
        description="Opens several streams at once and shows their texts live and side by side. One of them fails for"
        " good, and one is broken off in mid-answer and started again by its supervisor. Without a key in the"
        " environment a local Gemini answers; with one, Gemini itself does (a few short, billed requests).",
    )
    _model_option(demo)
    demo.add_argument("--local", action="store_true", help="use the local Gemini although there is a key")
    demo.add_argument("--plain", action="store_true", help="print lines, on a terminal too")
    demo.set_defaults(run=_demo)

    ask = commands.add_parser(
        "ask",
        help="stream one answer to standard output",
        description="Streams one answer to standard output and says everything else on standard error. Exit code 0:"
        " the answer is whole; 1: it is not, and one line says why. A failure is tried again only while nothing of"
        " the answer has been printed, since what is printed cannot be taken back.",
    )
    ask.add_argument("prompt", help="what to ask; - reads it from standard input")
    _model_option(ask)
    ask.set_defaults(run=_ask)
    return parser


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the model to ask (default: %(default)s)")


def _complain(text: str) -> None:
    if sys.stderr is None:  # `print` would take standard output instead
        return
    try:
        print(_one_line(f"gemini_streams: {text}"), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _mute(sys.stderr)


def _name(error: GeminiStreamsError) -> str:
    """Return what an error is to be called in front of its text; nothing where the text says it all."""
    return "the API answered " if isinstance(error, APIError) else ""


def _advice(error: GeminiStreamsError) -> str:
    """Return what to do about an error whose own text does not say so."""
    match error:
        case MissingCredentialsError():
            return "; `python -m gemini_streams demo` needs none"
        case APIError(code=429) if error.retry_at is not None:
            moment = datetime.fromtimestamp(error.retry_at).astimezone()
            return f" (try again after {moment:%Y-%m-%d %H:%M:%S})"
        case APIError(code=404):
            return " (is there such a model? give another with --model)"
        case APIError(code=401 | 403) | APIError(code=400) if "key" in str(error).lower() or error.code > 400:
            return " (check the key in GOOGLE_API_KEY or GEMINI_API_KEY, and what it may use)"
        case ConnectionFailedError():
            return " (check the network, the proxy and GOOGLE_GEMINI_BASE_URL)"
        case GeminiStreamsError(retryable=True):
            return " (try again)"
        case _:
            return ""


def _one_line(text: str) -> str:
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    """Return the text without control characters: a model's words must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "" for c in text)


# -- one answer ------------------------------------------------------------------------------------------------------


def _ask(options: argparse.Namespace) -> int:
    prompt = _standard_input() if options.prompt == "-" else options.prompt
    endpoint = Gemini()
    where = endpoint.resolve().base_url
    _complain(f"asking {options.model} at {where}")
    safely = _printable if sys.stdout.isatty() else str
    with contextlib.ExitStack() as clearing:
        manager = ManagerActor.start(
            endpoint=endpoint, model=options.model, retry=RetryPolicy(on_partial="fail")
        )
        clearing.callback(manager.stop, timeout=_SPARE_TIME)
        answer = clearing.enter_context(stream(manager, prompt))
        said = ""
        try:
            for item in answer:
                if isinstance(item, StreamEvent):
                    said = item.text or said
                    sys.stdout.write(safely(item.text))
                    sys.stdout.flush()
                elif isinstance(item, StreamRestarting):
                    _complain(f"{item.error}; asking again in {item.delay:.1f} s")
        finally:
            if said and not said.endswith("\n"):
                with contextlib.suppress(OSError):
                    print(flush=True)  # noqa: T201
        if answer.answer.ok:
            return 0
        _complain(_unfinished(answer.result))
        return 1


def _standard_input() -> str:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed: give the prompt as an argument")
    return sys.stdin.read()


def _unfinished(last: object) -> str:
    """Say why an answer that came to its end is not whole, and what to do."""
    if not isinstance(last, StreamComplete):
        return "the answer is not whole; ask again"
    if last.block_reason is not None:
        return f"the prompt was blocked ({last.block_reason}); ask in other words"
    why = f" ({last.finish_message})" if last.finish_message else ""
    return (
        f"the answer is not whole: it ended with {last.finish_reason}{why}; ask for less, or in other words"
    )


# -- the demonstration: what is shown --------------------------------------------------------------------------------


@dataclass
class Panel:
    """What is shown of one stream."""

    name: str
    prompt: str
    model: str | None = None
    """Another one than the others are asked for."""
    fails: bool = False
    """It is meant to."""
    broken: bool = False
    """It is meant to be broken off in mid-answer, and to be started again."""
    stream_id: str = ""
    answer: Answer = field(default_factory=Answer)
    attempt: int = 1
    restart: StreamRestarting | None = None
    """While the next attempt is waited for."""
    again_at: float = 0.0
    events: int = 0

    def take(self, message: SubscriberMessage, now: float) -> None:
        self.answer.add(message)
        self.restart = None
        match message:
            case StreamEvent():
                self.events += 1
            case StreamRestarting():
                self.restart = message
                self.attempt = message.attempt
                self.again_at = now + message.delay
            case _:
                pass

    @property
    def as_meant(self) -> bool:
        return self.answer.error is not None if self.fails else self.answer.ok

    def status(self, now: float) -> str:
        last = self.answer.last
        if last is not None:
            return _end_of(last)
        again = f"attempt {self.attempt}: " if self.attempt > 1 else ""
        if self.restart is not None and self.again_at > now:
            return f"restarts in {self.again_at - now:.1f} s"
        return f"{again}answering" if self.answer.text else f"{again}asking"

    @property
    def trouble(self) -> str:
        """What has gone wrong, as long as it matters."""
        if self.answer.error is not None:
            error = self.answer.error
            return f"{type(error).__name__}: {error}"
        if self.restart is not None:
            void = "what it had said is void" if self.restart.discard else "nothing is lost"
            return f"{self.restart.error}; {void}"
        return ""


def _end_of(last: object) -> str:
    match last:
        case StreamComplete():
            again = f", {last.attempts} attempts" if last.attempts > 1 else ""
            return f"{last.finish_reason or last.block_reason}, {last.duration:.1f} s{again}"
        case StreamError():
            return "failed for good"
        case StreamStopped():
            return "stopped"
        case _:
            return ""


def _panels() -> list[Panel]:
    return [
        Panel("tides", "Why are there two high tides a day? Answer in about sixty words."),
        Panel("rain", "Write four lines about rain on a tin roof."),
        Panel("sailors", "How did sailors find their longitude? In about sixty words.", broken=True),
        Panel("salt", "What does salt do in bread dough? Answer in about fifty words."),
        Panel("nobody", "Say hello.", model="gemini-no-such-model", fails=True),
        Panel("bees", "How do bees tell each other where to fly? In about sixty words."),
    ]


def _script(gemini: LocalGemini) -> None:
    """Tell the local Gemini what to answer; one word is one event."""
    gemini.on("tides", Reply(_TIDES, pace=0.065))
    gemini.on("rain", Reply(_RAIN, pace=0.11, headers_delay=0.4))
    gemini.on(
        "longitude", Reply(_LONGITUDE, pace=0.06, end="reset", end_after=24), Reply(_LONGITUDE, pace=0.055)
    )
    overloaded = Failure(503, "The model is overloaded. Please try again later.", headers_delay=0.7)
    gemini.on("salt", overloaded, Reply(_SALT, pace=0.06))
    unknown = "models/gemini-no-such-model is not found for API version v1beta."
    gemini.on("hello", Failure(404, unknown, headers_delay=1.2))
    gemini.on("bees", Reply(_BEES, pace=0.075, headers_delay=0.2))


# -- the demonstration: the actors and the loop ----------------------------------------------------------------------


class _Reader(pykka.ThreadingActor):
    """Subscribes to all the streams and hands over what it receives; the tag says whose it is."""

    use_daemon_thread = True

    def __init__(self, inbox: queue.SimpleQueue[SubscriberMessage]) -> None:
        super().__init__()
        self._inbox = inbox

    def on_receive(self, message: Any) -> None:
        self._inbox.put(message)


def _demo(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as clearing:
        endpoint = Gemini()
        try:
            where = "" if options.local else endpoint.resolve().base_url
        except MissingCredentialsError:
            where = ""
        if where:
            _say(f"Gemini at {where} answers, model {options.model}.")
        else:
            gemini = clearing.enter_context(LocalGemini())
            _script(gemini)
            endpoint = gemini.endpoint
            why = "As asked" if options.local else "No key in GOOGLE_API_KEY or GEMINI_API_KEY"
            _say(f"{why}: a local Gemini answers, scripted, at {gemini.url}. Nothing leaves this machine.")
        manager = ManagerActor.start(
            endpoint=endpoint,
            model=options.model,
            retry=RetryPolicy(initial_delay=1.0, jitter=0.2),
            deadline=60.0,
        )
        clearing.callback(manager.stop, timeout=_SPARE_TIME)
        view: View = Lines() if options.plain or not Screen.fits(len(_panels())) else Screen()
        clearing.callback(view.close)
        return _watch(manager, view, kills=bool(where), clearing=clearing)


def _watch(manager: ManagerRef, view: View, *, kills: bool, clearing: contextlib.ExitStack) -> int:
    panels = {panel.name: panel for panel in _panels()}
    inbox: queue.SimpleQueue[SubscriberMessage] = queue.SimpleQueue()
    reader = _Reader.start(inbox)
    clearing.callback(reader.stop, timeout=_SPARE_TIME)
    began = time.monotonic()
    for panel in panels.values():
        other: dict[str, Any] = {} if panel.model is None else {"model": panel.model}
        panel.stream_id = manager.start_stream(panel.prompt, subscriber=reader, tag=panel.name, **other)
    everything = list(panels.values())
    while not all(panel.answer.done for panel in everything):
        for message in _received(inbox, time.monotonic() + _FRAME):
            panel = panels[message.tag]
            panel.take(message, time.monotonic())
            view.told(panel, message)
            if kills and panel.broken and isinstance(message, StreamEvent) and panel.attempt == 1:
                _break(manager, panel)
        view.draw(everything, time.monotonic())
    view.close()
    _sum_up(everything, manager, time.monotonic() - began)
    return 0 if all(panel.as_meant for panel in everything) else 1


def _received(inbox: queue.SimpleQueue[SubscriberMessage], until: float) -> Iterator[SubscriberMessage]:
    while (left := until - time.monotonic()) > 0:
        try:
            yield inbox.get(timeout=left)
        except queue.Empty:
            return


def _break(manager: ManagerRef, panel: Panel) -> None:
    """Kill the actor of a stream; its supervisor starts it again."""
    panel.broken = False
    ref = manager.get_stream_info(panel.stream_id).stream_ref
    if ref is not None:
        kill(ref)


def _sum_up(panels: list[Panel], manager: ManagerRef, seconds: float) -> None:
    stats = manager.get_stats()
    _say(
        f"{len(panels)} streams at once in {seconds:.1f} s: {stats.completed} complete, {stats.failed} failed,"
        f" {_count(stats.restarts, 'restart')}, {_count(stats.events, 'event')}."
    )
    for panel in panels:
        last = panel.answer.last
        if isinstance(last, StreamError):
            meant = " (it was meant to)" if panel.fails else ""
            attempts = _count(last.attempts, "attempt")
            _say(f"{panel.name} failed after {attempts}{meant}: {_one_line(panel.trouble)}")
        elif not panel.as_meant:
            _say(f"{panel.name} is not as it should be: {_one_line(_end_of(last))}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


# -- the demonstration: how it is shown ------------------------------------------------------------------------------


class View(Protocol):
    """How the panels are shown."""

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """A panel has taken a message."""

    def draw(self, panels: list[Panel], now: float) -> None:
        """Show how they stand."""

    def close(self) -> None:
        """Nothing more will be shown."""


class Lines:
    """Lines with the stream's name in front, for a file, a pipe, or a small terminal."""

    _WIDTH = 88

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}  # characters of each answer

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """Print what is complete of the text, and all that is no text at once."""
        text = panel.answer.text
        shown = min(self._shown.get(panel.name, 0), len(text))
        if isinstance(message, StreamEvent):
            *whole, rest = _wrapped(text[shown:], self._WIDTH)
            for line in whole:
                self._print(panel, line)
            shown = len(text) - len(rest)
        elif panel.answer.done:
            for line in _wrapped(text[shown:], self._WIDTH):
                if line:
                    self._print(panel, line)
            self._print(panel, f"== {_one_line(': '.join(filter(None, (_end_of(message), panel.trouble))))}")
        elif panel.restart is not None:
            delay = panel.restart.delay
            self._print(panel, f"-- attempt {panel.attempt} in {delay:.1f} s: {_one_line(panel.trouble)}")
        self._shown[panel.name] = shown

    def _print(self, panel: Panel, line: str) -> None:
        _say(f"{panel.name:>7} | {line.strip()}")

    def draw(self, panels: list[Panel], now: float) -> None:
        """Everything was printed when it came."""

    def close(self) -> None:
        """Nothing is left to do."""


_BOLD, _RED, _YELLOW, _GREEN, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
_LEAST_HEIGHT = 4


class Screen:
    """Columns on a terminal, drawn again in place, in the size that the terminal has at that moment."""

    def __init__(self) -> None:
        self._out: TextIO = sys.stdout
        self._colours = "NO_COLOR" not in os.environ
        self._size = os.terminal_size((0, 0))
        self._lines = 0  # of the last frame, with the cursor below it
        self._frame: list[Panel] = []
        self._logged = _Kept()
        logging.getLogger().addHandler(self._logged)

    @classmethod
    def fits(cls, count: int) -> bool:
        """Whether standard output is a terminal on which so many panels can be shown."""
        if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return False
        across, height = _layout(count, shutil.get_terminal_size())
        return across > 0 and height >= _LEAST_HEIGHT

    def told(self, panel: Panel, message: SubscriberMessage) -> None:
        """Wait for the next frame."""

    def draw(self, panels: list[Panel], now: float) -> None:
        """Draw a frame over the last one."""
        self._frame = panels
        size = shutil.get_terminal_size()
        across, height = _layout(len(panels), size)
        up = f"\x1b[{self._lines}A\r" if self._lines else ""
        if self._lines and size != self._size:
            up = "\x1b[2J\x1b[H"  # the terminal has broken the lines anew
        self._size = size
        width = (size.columns - 1) // max(across, 1) - 2
        lines: list[str] = []
        if across and height >= _LEAST_HEIGHT:
            for start in range(0, len(panels), across):
                cells = [self._cell(panel, width, height, now) for panel in panels[start : start + across]]
                lines += ["  ".join(row) for row in zip(*cells, strict=True)]
        else:
            lines = ["(too small)"[: size.columns - 1]]
        self._lines = len(lines)
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        self._out.flush()

    def close(self) -> None:
        """Leave the last frame standing."""
        logging.getLogger().removeHandler(self._logged)
        for line in self._logged.lines:
            _complain(line)
        self._logged.lines.clear()

    def _cell(self, panel: Panel, width: int, height: int, now: float) -> list[str]:
        """Return a panel as so many lines of this width."""
        status = panel.status(now)
        title = _cut(f"{panel.name} · {status} ", width)
        colour = _BOLD
        if panel.answer.error is not None:
            colour = _RED
        elif panel.restart is not None:
            colour = _YELLOW
        elif panel.answer.done:
            colour = _GREEN
        body = _wrapped(_printable(panel.answer.text), width) if panel.answer.text else []
        rows = height - 2
        trouble = _wrapped(_one_line(panel.trouble), width)[:rows] if panel.trouble else []
        body = body[max(0, len(body) - rows + len(trouble)) :]
        lines = [self._painted(title + "─" * (width - _cells(title)), colour)]
        lines += [_padded(line, width) for line in body]
        lines += [self._painted(_padded(line, width), colour) for line in trouble]
        return lines + [" " * width] * (height - len(lines))

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours else text


class _Kept(logging.Handler):
    """Log lines kept until the screen is free."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _layout(count: int, size: os.terminal_size) -> tuple[int, int]:
    """Return how many panels stand beside each other, and how high each is, the line between two included."""
    across = min(count, size.columns // 36)
    if not across:
        return 0, 0
    rows = -(-count // across)
    return -(-count // rows), min(14, (size.lines - 4) // rows)


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells; a space that a line ends at is left out."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, used = "", 0
        for number, word in enumerate(paragraph.split(" ")):
            size = _cells(word)
            if number and used + 1 + size <= width:
                line, used = f"{line} {word}", used + 1 + size
                continue
            if number:
                lines.append(line)
            while size > width:
                head = _cut(word, width)
                lines.append(head)
                word = word[len(head) :]  # noqa: PLW2901
                size = _cells(word)
            line, used = word, size
        lines.append(line)
    return lines


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _cut(text: str, width: int) -> str:
    while _cells(text) > width:
        text = text[: max(1, min(len(text) - 1, width))]
        if len(text) == 1:
            break
    return text


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


# -- the demonstration: what the local Gemini says -------------------------------------------------------------------

_TIDES = (
    "The Moon pulls harder on the side of the Earth that faces it, and the water there rises. On the far side it"
    " pulls less than on the Earth itself, so the water is left behind and rises too. The Earth turns under these"
    " two bulges once a day, and a coast passes both: two high tides, about twelve hours and twenty-five minutes"
    " apart."
)
_RAIN = (
    "A thousand small hammers, and none of them strong,\nthe roof learns the weather and sings it along;\n"
    "the gutter keeps time and the barrel keeps score,\nand nobody asks it for silence any more."
)
_LONGITUDE = (
    "Longitude is a difference of time: an hour between noon at home and noon on board is fifteen degrees. The sun"
    " gave the ship's noon; home's had to be carried along, and no clock kept it at sea until John Harrison's H4"
    " crossed the Atlantic in 1761 and lost five seconds. Others measured the Moon's distance from a star, and"
    " reckoned for hours."
)
_SALT = (
    "Salt tightens the gluten, so the dough holds its gas and its shape. It slows the yeast, which gives flavour"
    " time to grow, and it keeps the crust from going pale, since sugar is left over to brown. And bread without it"
    " tastes of nothing much."
)
_BEES = (
    "A bee that has found flowers dances on the comb. She runs straight ahead, waggling, then circles back and"
    " runs again. The angle of the run against the vertical is the angle of the flight against the sun, and how"
    " long she waggles says how far it is: about a kilometre a second. The others follow her in the dark, and go."
)
