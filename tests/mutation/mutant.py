"""A mutant: one small fault that is put into a source file, and the tests that should fail then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A replacement of one piece of text in a source file, for a mutation analysis (DeMillo, Lipton
    and Sayward, *Hints on Test Data Selection*, IEEE Computer 1978).

    A mutant is killed if a test fails with the fault in place. A mutant that survives shows a line
    that no test checks, unless the changed program behaves like the original one.
    """

    fault: str
    """Words that say what is wrong with the changed program; they identify the mutant."""
    file: str
    """Path of the source file, relative to the root of the repository."""
    old: str
    """Text of the source, which must occur in the file exactly once."""
    new: str
    """Text that replaces ``old``."""
    tests: tuple[str, ...]
    """Test files, or tests within them, that are run against the mutant."""
    equivalent: str = ""
    """Reason why no quick test can tell the mutant from the original; empty for all others."""

    def applied_to(self, source: str) -> str:
        """Return a source with the fault in place.

        Raises:
            ValueError: if ``old`` does not occur exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(
                f"old must occur in {self.file} exactly once. Got {count} of {self.old!r}, for the "
                f"mutant {self.fault!r}. Follow the change of the source in tests/mutation/."
            )
        return source.replace(self.old, self.new)

    def apply(self, root: Path) -> str:
        """Write the fault into the file below ``root``; return the original source."""
        path = root / self.file
        source = path.read_text(encoding="utf-8")
        path.write_text(self.applied_to(source), encoding="utf-8")
        return source
