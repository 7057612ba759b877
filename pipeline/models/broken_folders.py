"""One line for whatever diffusers raises while it reads a model's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dqar.foreign_files import spelled
from pipeline.errors import InputError
from pipeline.models.model_info import ModelInfo

CLASS_TEXT = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
"""A class as Python prints it."""


@contextmanager
def refusing_what_is_broken(info: ModelInfo) -> Iterator[None]:
    """Turn what diffusers raises about a model's folder into one line, and silence its log.

    Raises:
        InputError: one line that names the model and the reason.
    """
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    # diffusers logs keys that it ignores and its progress, beside the one line of a refusal.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except InputError as error:
        if str(error).startswith("--model"):
            raise
        raise InputError(f"--model {spelled(info.name)}: {error}") from error
    # Broken configurations make diffusers raise whatever Python raises, such as ZeroDivisionError.
    except Exception as error:
        reason = CLASS_TEXT.sub(r"\1", str(error))[:300] or type(error).__name__
        raise InputError(
            f"--model {spelled(info.name)} must load with diffusers. Got: {reason}. "
            "Save the model again with save_pretrained."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
