# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""Pictures that the host keeps."""

from __future__ import annotations

from typing import List, Tuple

from . import _process
from .types import Region


class Image(_process.Handle):
    """Scene-linear RGBA pixels, 32-bit floats, premultiplied alpha. A handle:
    the pixels stay in the host until they are read.
    """

    kind = "image"

    @staticmethod
    def create(width: int, height: int) -> Image:
        """Makes a transparent black image.

        Fails with `limit` for a side of 0 or above 65,536 pixels, or above the
        attempt's limit of pixel memory.
        """
        answer: Image = _process.ask("image.create", Image, width=width, height=height)
        return answer

    @staticmethod
    def load(key: str) -> Image:
        """Loads the image that this job saved under `key`.

        Fails with `not-found`, `invalid-argument` for a malformed key, `limit`
        above the attempt's limit of pixel memory, `host` if it cannot be read.
        """
        answer: Image = _process.ask("image.load", Image, key=key)
        return answer

    @staticmethod
    def merge(parts: List[Image]) -> Image:
        """Averages pictures of one size, each weighed by its samples: pictures of
        disjoint sample ranges of a frame become the picture of all their samples.

        Fails with `invalid-argument` for no picture at all, for pictures of
        several sizes, and for one whose samples are not known, `limit` above the
        attempt's limit of pixel memory.
        """
        answer: Image = _process.ask("image.merge", Image, parts=parts)
        return answer

    def size(self) -> Tuple[int, int]:
        """Width and height in pixels."""
        answer: Tuple[int, int] = _process.ask("image.size", Tuple[int, int], image=self)
        return answer

    def samples(self) -> int:
        """How many samples a pixel the image holds; 0 if that is not known. A picture
        that others were placed in has the fewest of them.
        """
        answer: int = _process.ask("image.samples", int, image=self)
        return answer

    def crop(self, region: Region) -> Image:
        """Copies a region into an image of its own.

        Fails with `invalid-argument` if the region is not within the image,
        `limit` above the attempt's limit of pixel memory.
        """
        answer: Image = _process.ask("image.crop", Image, image=self, region=region)
        return answer

    def place(self, part: Image, x: int, y: int) -> None:
        """Copies another picture into this one, its lower left corner to `x`, `y`.

        Fails with `invalid-argument` if it is not within this one then, and for
        the image itself.
        """
        _process.ask("image.place", None, image=self, part=part, x=x, y=y)

    def read(self, region: Region) -> memoryview:
        """Reads the pixels of a region: red, green, blue, alpha of each pixel,
        row by row from the lowest up.

        Fails with `invalid-argument` if the region is not within the image,
        `limit` above 4,194,304 pixels a call.
        """
        answer: memoryview = _process.ask("image.read", memoryview, image=self, region=region)
        return answer

    def write(self, region: Region, pixels: _process.Pixels) -> None:
        """Overwrites the pixels of a region, laid out as `read` gives them.

        Fails with `invalid-argument` if the region is not within the image
        or `pixels` is not four times its area, `limit` above 4,194,304 pixels
        a call.
        """
        _process.ask("image.write", None, image=self, region=region, pixels=_process.pixels(pixels))

    def save(self, key: str) -> None:
        """Keeps the image under `key` for other attempts of this job, in place
        of what was there. A key is 1 to 128 characters of `A-Z a-z 0-9 . _ -`
        and does not begin with a dot.

        Fails with `invalid-argument` for a malformed key, `host` if the disk
        is full.
        """
        _process.ask("image.save", None, image=self, key=key)
