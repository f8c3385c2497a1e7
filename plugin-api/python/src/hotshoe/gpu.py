# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""Devices to render on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from . import _process
from .types import Device, DeviceKind


@dataclass(frozen=True)
class Request:
    """What an acquirer wants.

    Attributes:
        kind: Only devices of this kind; any if absent.
        count: How many devices, at least 1.
        memory: Free memory that each must have, in bytes; 0 for no demand.
        timeout_ms: How long to wait for them, in milliseconds; 0 asks only once.
    """

    count: int
    memory: int
    timeout_ms: int
    kind: Optional[DeviceKind] = None


class Lease(_process.Handle):
    """The right to use devices. Dropping it gives them back; the end of the
    attempt does so too.
    """

    kind = "lease"

    def devices(self) -> List[Device]:
        """The devices leased."""
        answer: List[Device] = _process.ask("lease.devices", List[Device], lease=self)
        return answer

    def memory(self) -> int:
        """Memory granted on each device, in bytes."""
        answer: int = _process.ask("lease.memory", int, lease=self)
        return answer


def devices() -> List[Device]:
    """Lists the devices that this plugin may lease."""
    answer: List[Device] = _process.ask("gpu.devices", List[Device])
    return answer


def acquire(request: Request) -> Lease:
    """Leases devices, waiting in a fair queue if they are in use.

    Fails with `not-found` if the host has no such devices at all, `limit`
    if they did not come free in time, `invalid-argument`, `canceled`.
    """
    answer: Lease = _process.ask("gpu.acquire", Lease, request=request)
    return answer
