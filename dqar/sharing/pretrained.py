"""Plans and policies in diffusers' manner: saved to a folder with a card, pushed to the Hugging
Face Hub, and loaded from either.

Functions, since huggingface_hub's mixins would load it with every ``import dqar``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from dqar.hub_files import SCHEME, HubAccess, fetch, is_on_hub, upload
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.schedules.serialization import PLAN, load_plan, save_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.sharing.model_card import CardFacts, card_of


def save_pretrained(
    shared: StaticPlan | ReusePolicy,
    folder: str | Path,
    facts: CardFacts | None = None,
    *,
    repository: str | None = None,
) -> None:
    """Write a plan or a policy and its card into a folder, which is made if missing.

    Args:
        shared: plan (``reuse_plan.json``) or policy (``policy.json``, ``policy.safetensors``).
        folder: folder for the files.
        facts: facts for the card that the files do not hold.
        repository: name on the Hub that the card's example loads; the folder by default.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(shared, StaticPlan):
        save_plan(shared, folder / PLAN)
    else:
        save_policy(shared, folder)
    place = str(folder) if repository is None else f"{SCHEME}{repository}"
    card = card_of(shared, place, facts or CardFacts())
    (folder / "README.md").write_text(card, encoding="utf-8")


def from_pretrained(place: str | Path, access: HubAccess | None = None) -> StaticPlan | ReusePolicy:
    """Load a plan or a policy from a folder or a repository on the Hub.

    :func:`dqar.load_plan` and :func:`dqar.load_policy` take the same places, and return one kind.

    Args:
        place: folder of :func:`save_pretrained`; else ``OWNER/NAME`` or ``hf://OWNER/NAME``, with
            ``@REVISION`` for a branch, a tag or a commit.
        access: account and server; those of the environment by default.

    Raises:
        ValueError: one line, if there is no such place, or a file in it is not valid.
    """
    is_folder = not is_on_hub(place) and Path(place).is_dir()
    folder = Path(place) if is_folder else fetch(str(place), access)
    return load_plan(folder) if (folder / PLAN).is_file() else load_policy(folder)


def push_to_hub(
    shared: StaticPlan | ReusePolicy,
    repository: str,
    facts: CardFacts | None = None,
    *,
    access: HubAccess | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload with dqar",
) -> str:
    """Upload a plan or a policy with its card as one commit; return the commit's URL.

    Args:
        shared: plan or policy.
        repository: ``OWNER/NAME``, created if missing.
        facts: facts for the card that the files do not hold.
        access: account and server; those of the environment by default.
        private: visibility of a new repository; None for the account's default.
        revision: branch to commit to; None for ``main``.
        message: message of the commit.

    Raises:
        ValueError: one line, if the Hub does not take the files.
    """
    with tempfile.TemporaryDirectory(prefix="dqar-") as folder:
        save_pretrained(shared, folder, facts, repository=repository)
        return upload(
            Path(folder),
            repository,
            access=access,
            private=private,
            revision=revision,
            message=message,
        )
