# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments that say where a run is pushed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from .model_card import check_license


@dataclass
class RepositoryArguments:
    """A repository on the Hugging Face Hub, and the token to push to it."""

    _argument_group_name = "Hub"

    hub_model_id: str | None = field(
        default=None, metadata=help_text("The repository, owner/name; the output folder's name if unset.")
    )
    hub_private_repo: bool = field(default=False, metadata=help_text("Push to a private repository."))
    hub_token: str | None = field(
        default=None, metadata=help_text("A token with write permission; safer in HF_TOKEN, or by `hf auth login`.")
    )
    hub_license: str | None = field(
        default=None,
        metadata=help_text(
            "The model's licence by the Hub's name, such as cc-by-4.0. If unset, the card names none, except for a"
            " model of the built-in digits (apache-2.0)."
        ),
    )


@dataclass
class HubArguments(RepositoryArguments):
    """Pushing the model to the Hugging Face Hub, with its card, samples and figures."""

    push_to_hub: bool = field(default=False, metadata=help_text("Push the model when it is trained."))
    hub_push_steps: int = field(
        default=0,
        metadata=help_text("Also push every this many steps, unless a push is in progress; 0 for never."),
    )


@dataclass
class PushArguments(RepositoryArguments):
    """The finished run to push."""

    output_dir: str = field(default="runs/digits", metadata=help_text("The run's folder, or any saved pipeline."))
    commit_message: str | None = field(
        default=None, metadata=help_text('"Upload model", or "Upload page" with --space, if unset.')
    )
    create_pr: bool = field(default=False, metadata=help_text("Open a pull request instead of a commit."))
    space: bool = field(
        default=False,
        metadata=help_text("Push a page for the model --hub_model_id, which is on the Hub, instead: a Gradio Space."),
    )
    space_id: str | None = field(default=None, metadata=help_text("The Space, owner/name; the model's name if unset."))
    space_dir: str | None = field(
        default=None, metadata=help_text("Write the Space into this new folder, and push nothing.")
    )
    space_requirement: str | None = field(
        default=None,
        metadata=help_text("What the Space's pip installs ddpm_hf from; this version by its name if unset."),
    )


def check_space_arguments(push: PushArguments) -> None:
    """Raise ValueError for arguments of a Space without `space`, or a `space` without a model."""
    for name in ("space_id", "space_dir", "space_requirement"):
        if getattr(push, name) is not None and not push.space:
            raise ValueError(f"`{name}` does nothing without --space.")
    if push.space and push.hub_model_id is None:
        raise ValueError("`hub_model_id` must name the model on the Hub, owner/name, that the Space shows.")


def check_hub_arguments(hub: HubArguments) -> None:
    """Raise ValueError for a `hub_push_steps` that is negative, or set without `push_to_hub`, or a bad licence."""
    check_license(hub.hub_license, "hub_license")
    if hub.hub_push_steps < 0:
        raise ValueError(f"`hub_push_steps` must be at least 0, but is {hub.hub_push_steps}.")
    if hub.hub_push_steps and not hub.push_to_hub:
        raise ValueError("`hub_push_steps` does nothing without --push_to_hub.")
