"""The conversation with the host: messages, handles, pixels.

Knows nothing of what the messages mean: that is made from the contract.
"""

from __future__ import annotations

import base64
import contextvars
import dataclasses
import json
import mmap
import os
import socket
import sys
import threading
import traceback
import weakref
from concurrent.futures import Future
from enum import Enum
from types import TracebackType
from typing import Any, Callable, ClassVar, Dict, List, Optional, Type, TypeVar, Union, get_type_hints

Json = Dict[str, Any]
H = TypeVar("H", bound="Handle")

Pixels = Union[bytes, bytearray, memoryview, "mmap.mmap", Any]
"""Floats of 32 bits, one after another: a `memoryview`, an `array('f')`, an array of numpy, or
their bytes."""

attempt: contextvars.ContextVar[int] = contextvars.ContextVar("attempt")
"""The attempt that this thread works at. A thread of your own has it if it runs in a
`contextvars.copy_context()`."""

CONTRACT_ERROR = -32000
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603


class ProtocolError(RuntimeError):
    """The host refused a call that is not of the contract, or is gone."""


class Case:
    """A case of a variant: its name, and its value if it has one."""

    case: ClassVar[str]


class Handle:
    """Something that the host keeps. It ends with its attempt, or before: at `close`,
    at the end of its `with` block, or when nothing refers to it any more.
    """

    kind: ClassVar[str]

    def __init__(self, number: int) -> None:
        """Takes the number that the host gave."""
        self._number: Optional[int] = number
        self._attempt = attempt.get()

    @property
    def number(self) -> int:
        """The number by which the host knows it."""
        if self._number is None:
            raise ProtocolError(f"this {self.kind} is closed")
        return self._number

    def close(self) -> None:
        """Lets go of it; again does nothing."""
        number, self._number = self._number, None
        if number is not None and self._attempt in connection().attempts:
            connection().call(f"{self.kind}.drop", {"attempt": self._attempt, self.kind: number})

    def __enter__(self: H) -> H:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        """Lets go of it."""
        self.close()

    def __del__(self) -> None:
        """Lets go of it."""
        try:
            self.close()
        except Exception:  # noqa: BLE001, S110
            pass  # The host is gone, or the attempt is over.

    def __repr__(self) -> str:
        """Shows what it is."""
        return f"<{type(self).__name__} {self._number or 'closed'}>"


class _Sent:
    """Pixels in a buffer, on their way to the host."""

    def __init__(self, buffer: _Buffer, length: int) -> None:
        self.buffer = buffer
        self.length = length


@dataclasses.dataclass
class _Buffer:
    number: int
    length: int
    memory: mmap.mmap


class Connection:
    """This side of the connection to the host."""

    def __init__(self, line: int, pixels: int) -> None:
        """Takes the descriptors that the host gave."""
        self._line = socket.socket(fileno=line)
        self._pixels = socket.socket(fileno=pixels)
        self._writing = threading.Lock()
        self._receiving = threading.Lock()
        self._waiting: Dict[int, Future[Any]] = {}
        self._next = 0
        self._received: Dict[int, int] = {}
        self._scratch: Dict[int, _Buffer] = {}
        self._reader: Optional[int] = None
        self.attempts: set[int] = set()

    def send(self, message: Json) -> None:
        """Writes a message."""
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"
        with self._writing:
            self._line.sendall(line)

    def call(self, method: str, params: Json) -> Any:
        """Calls a method of the host and waits for its result."""
        answer: Future[Any] = Future()
        with self._writing:
            self._next += 1
            number = self._next
            self._waiting[number] = answer
        try:
            self.send({"id": number, "method": method, "params": params})
        except OSError as error:
            self._waiting.pop(number, None)
            raise ProtocolError("the host is gone") from error
        if threading.get_ident() == self._reader:
            # Something was collected here that let go of a handle: the answer is read later.
            return None
        return answer.result()

    def read(self, serve: Callable[[str, Json, Any], None]) -> None:
        """Reads until the host hangs up; requests go to `serve`, with their id."""
        self._reader = threading.get_ident()
        with self._line.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "method" in message:
                    serve(message["method"], message.get("params", {}), message.get("id"))
                    continue
                answer = self._waiting.pop(message["id"], None)
                if answer is None:
                    continue
                if "error" in message:
                    answer.set_exception(_exception(message["error"]))
                else:
                    answer.set_result(message.get("result"))
        while self._waiting:
            _, answer = self._waiting.popitem()
            answer.set_exception(ProtocolError("the host is gone"))

    def descriptor(self, number: int) -> int:
        """Takes the descriptor of a buffer."""
        with self._receiving:
            while number not in self._received:
                text, descriptors, _, _ = socket.recv_fds(self._pixels, 32, 1)
                if not text:
                    raise ProtocolError("the host is gone")
                self._received[int(text)] = descriptors[0]
            return self._received.pop(number)

    def buffer(self, of: int, length: int) -> _Buffer:
        """Takes a buffer with room for so many floats."""
        found = self._scratch.pop(of, None)
        if found is not None and found.length >= length:
            return found
        if found is not None:
            self.call("buffer.drop", {"attempt": of, "buffer": found.number})
        number = self.call("buffer.create", {"attempt": of, "length": length})
        return _Buffer(number, length, _map(self.descriptor(number), length))

    def keep(self, of: int, buffer: _Buffer) -> None:
        """Keeps a buffer for the next call of the attempt."""
        other = self._scratch.setdefault(of, buffer)
        if other is not buffer:
            self.call("buffer.drop", {"attempt": of, "buffer": buffer.number})

    def forget(self, of: int, buffer: int) -> None:
        """Drops a buffer, unless its attempt is over."""
        if of in self.attempts:
            self.call("buffer.drop", {"attempt": of, "buffer": buffer})

    def end(self, of: int) -> None:
        """Forgets all that an attempt had."""
        self.attempts.discard(of)
        self._scratch.pop(of, None)


_connection: Optional[Connection] = None


def connect() -> Connection:
    """Takes the connection that the host gave to this process."""
    global _connection
    try:
        line, pixels = (int(os.environ.pop(name)) for name in ("HOTSHOE_FD", "HOTSHOE_PIXELS_FD"))
    except KeyError:
        sys.exit("this is a plugin of Hotshoe: `hotshoe plugin show FOLDER` starts it")
    _connection = Connection(line, pixels)
    return _connection


def connection() -> Connection:
    """Returns the connection to the host."""
    if _connection is None:
        raise ProtocolError("there is no host: call hotshoe.serve first")
    return _connection


def ask(method: str, result: Any, **params: Any) -> Any:
    """Calls a function of the contract."""
    handles = (param for param in params.values() if isinstance(param, Handle))
    handle = next(handles, None)
    try:
        current = attempt.get() if handle is None else handle._attempt
    except LookupError:
        raise ProtocolError(f"{method} was called outside of an attempt") from None
    sent: List[_Sent] = [param for param in params.values() if isinstance(param, _Sent)]
    try:
        encoded = {name: encode(param) for name, param in params.items() if param is not None}
        answer = connection().call(method, {"attempt": current, **encoded})
    finally:
        for pixels_ in sent:
            connection().keep(current, pixels_.buffer)
    token = attempt.set(current)
    try:
        return decode(result, answer)
    finally:
        attempt.reset(token)


def text(value: Any) -> str:
    """Writes a value as the JSON text that the contract wants."""
    return json.dumps(value, ensure_ascii=False)


def pixels(data: Pixels) -> _Sent:
    """Puts pixels where the host can read them."""
    view = memoryview(data)
    if view.itemsize not in (1, 4) or view.nbytes % 4 or not view.c_contiguous:
        raise TypeError("pixels are floats of 32 bits, one after another, or their bytes")
    bytes_ = view.cast("B")
    length = len(bytes_) // 4
    buffer = connection().buffer(attempt.get(), max(length, 1))
    buffer.memory[: len(bytes_)] = bytes_
    return _Sent(buffer, length)


def encode(value: Any) -> Any:
    """Makes a value ready to be sent."""
    if isinstance(value, Handle):
        return value.number
    if isinstance(value, _Sent):
        return {"buffer": value.buffer.number, "length": value.length}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, Case):
        inner = getattr(value, "value", None)
        return value.case if inner is None else {value.case: encode(inner)}
    if dataclasses.is_dataclass(value):
        hints = _hints(type(value))
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {
            name: text(field) if hints[name] is Any else encode(field)
            for name, field in fields
            if field is not None or hints[name] is Any
        }
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(wanted: Any, value: Any) -> Any:
    """Makes of what was received what the contract says that it is."""
    if wanted is None or wanted in (bool, int, float, str):
        return value
    if wanted is Any:
        return json.loads(value)
    if wanted is bytes:
        return base64.b64decode(value)
    if wanted is memoryview:
        number, length = value["buffer"], value["length"]
        memory = _map(connection().descriptor(number), length)
        # The host forgets it once nobody looks at it any more, or with the attempt.
        weakref.finalize(memory, connection().forget, attempt.get(), number)
        return memoryview(memory).cast("f")
    origin: Any = getattr(wanted, "__origin__", None)
    parts: List[Any] = list(getattr(wanted, "__args__", ()))
    if origin is Union and type(None) in parts:
        return None if value is None else decode(parts[0], value)
    if origin is Union:
        name, inner = next(iter(value.items())) if isinstance(value, dict) else (value, None)
        case = next(part for part in parts if part.case == name)
        return case() if inner is None else case(decode(_hints(case)["value"], inner))
    if origin is list:
        return [decode(parts[0], item) for item in value]
    if origin is tuple:
        return tuple(decode(part, item) for part, item in zip(parts, value))
    if issubclass(wanted, (Enum, Handle)):
        return wanted(value)
    hints = _hints(wanted)
    return wanted(**{name: decode(hints[name], field) for name, field in value.items() if name in hints})


_known: Dict[Any, Dict[str, Any]] = {}


def _hints(of: Any) -> Dict[str, Any]:
    if of not in _known:
        _known[of] = get_type_hints(of)
    return _known[of]


def _map(descriptor: int, length: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, length * 4)
    finally:
        os.close(descriptor)


def _exception(error: Json) -> Exception:
    from .types import ERRORS, ErrorCode

    data = error.get("data")
    if error.get("code") == CONTRACT_ERROR and isinstance(data, dict):
        return ERRORS[ErrorCode(data["code"])](data["message"])
    return ProtocolError(str(error.get("message")))


def places_of(error: BaseException) -> List[str]:
    """Names who called whom when an error was raised, the last one first, as far as it is not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if os.path.dirname(frame.filename) != os.path.dirname(__file__)]
    return [f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in reversed(theirs)]
