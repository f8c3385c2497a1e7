# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""A few bytes that outlive an attempt: scoped to this plugin and this job."""

from __future__ import annotations

from typing import Optional

from . import _process


def get(key: str) -> Optional[bytes]:
    """Returns what was set under `key`, if anything was.

    Fails with `invalid-argument` for a malformed key (see `image.save`).
    """
    answer: Optional[bytes] = _process.ask("state.get", Optional[bytes], key=key)
    return answer


def set(key: str, value: bytes) -> None:
    """Keeps `value` under `key`, in place of what was there.

    Fails with `invalid-argument` for a malformed key, `limit` above 1 MiB
    a value or 64 MiB a job.
    """
    _process.ask("state.set", None, key=key, value=value)


def delete(key: str) -> None:
    """Forgets `key`; a key that was never set is fine.

    Fails with `invalid-argument` for a malformed key.
    """
    _process.ask("state.delete", None, key=key)
