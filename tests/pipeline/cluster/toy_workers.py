"""Workers of a pool that square numbers, or die, hang, raise and refuse."""

import os
import time
from pathlib import Path
from typing import Any

from pipeline.errors import InputError


class Toy:
    """Worker that squares numbers, and writes a mark into a file for each attempt."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def do(self, unit: int) -> Any:
        with (self.folder / f"{unit}").open("a") as marks:
            marks.write("x")
        return unit**2


class DiesOnce(Toy):
    """Worker whose process ends in the first attempt at unit 1 and at unit 3."""

    def do(self, unit: int) -> int:
        is_first = not (self.folder / f"{unit}").exists()
        result = super().do(unit)
        if is_first and unit in (1, 3):
            os._exit(1)
        return result


class DiesAlways(Toy):
    def do(self, unit: int) -> int:
        super().do(unit)
        os._exit(1)


class HangsOnce(Toy):
    """Worker that hangs in the first attempt at unit 1 and in all attempts at unit 2."""

    def do(self, unit: int) -> int:
        is_first = not (self.folder / f"{unit}").exists()
        result = super().do(unit)
        if (is_first and unit == 1) or unit == 2:
            time.sleep(3600)
        return result


class Refuses(Toy):
    def do(self, unit: int) -> int:
        raise InputError(f"unit must be even. Got {unit}. Pass 2.")


class RefusesToStart(Toy):
    def __init__(self, folder: str) -> None:
        with (Path(folder) / "starts").open("a") as marks:
            marks.write("x")
        if len((Path(folder) / "starts").read_text()) > 3:
            time.sleep(600)
        raise InputError("folder must hold weights. Got none. Pass another.")


class DiesAtStart(Toy):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        super().do(0)
        os._exit(1)


class Fails(Toy):
    def do(self, unit: int) -> int:
        raise KeyError(unit)


class FailsOnce(Toy):
    """Worker that raises in the first attempt at unit 1 and in all attempts at unit 2; for other
    attempts it returns its process id."""

    def do(self, unit: int) -> int:
        is_first = not (self.folder / f"{unit}").exists()
        super().do(unit)
        if unit == 2 or (is_first and unit == 1):
            raise ArithmeticError(f"unit {unit} in process {os.getpid()}")
        return os.getpid()


class DiesOrFails(Toy):
    """Worker that dies in each attempt at unit 0, raises in each at unit 1, and does all others."""

    def do(self, unit: int) -> int:
        super().do(unit)
        if unit == 0:
            os._exit(1)
        if unit == 1:
            raise KeyError(unit)
        return unit


class Names(Toy):
    def do(self, unit: int) -> int:
        return os.getpid()
