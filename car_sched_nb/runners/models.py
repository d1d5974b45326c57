"""Which model an agent asks, and the key that it takes for that: looked for, never kept."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Task

if TYPE_CHECKING:
    from pydantic_ai.models import Model

LOCAL = "local"
_OPENAI = ("openai", "openai-chat", "openai-responses")
_KEYS = {
    **dict.fromkeys(_OPENAI, ("OPENAI_API_KEY",)),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("CO_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "huggingface": ("HF_TOKEN",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshotai": ("MOONSHOTAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "together": ("TOGETHER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
"""The variables that hold a provider's key; of any other provider pydantic-ai says at the start what it needs."""
_NO_MODEL = (
    "no model is named: add --model openai:gpt-5-mini (or anthropic:..., or any of pydantic-ai's), set it for all with "
    "%env CAR_MODEL=openai:gpt-5-mini or %car config --model NAME, or use --model local, which needs no key"
)


class Choice(NamedTuple):
    """A model by its name, where it is served, and the variable with its key."""

    name: str
    base_url: str = ""
    key_env: str = ""

    @property
    def provider(self) -> str:
        """What stands before the colon; empty for a name at a `base_url` that has no provider."""
        head, colon, _ = self.name.partition(":")
        if self.base_url:
            return head if colon and head in _OPENAI else ""
        return head

    @property
    def bare(self) -> str:
        """The name as the server knows it."""
        return self.name.removeprefix(f"{self.provider}:") if self.provider else self.name

    @property
    def is_local(self) -> bool:
        """Whether it runs in this process."""
        return not self.base_url and self.provider == LOCAL


def choice(task: Task, default: str) -> Choice:
    """Return the model that a task asks: its own, `$CAR_MODEL`, or the default.

    Raises
    ------
    InvalidInput
        When none is named, or the name cannot be one.
    """
    name = task.model.strip() or os.environ.get("CAR_MODEL", "").strip() or default.strip()
    if not name:
        raise InvalidInput(_NO_MODEL)
    if task.base_url:
        _check_url(task.base_url)
        if name.startswith("anthropic:"):
            raise InvalidInput(
                "--base-url is for servers that speak as OpenAI's do; for another address of Anthropic's "
                "set ANTHROPIC_BASE_URL and leave --base-url away"
            )
    elif ":" not in name and name not in (LOCAL, "test"):
        raise InvalidInput(f"--model needs the provider too: openai:{name}, anthropic:{name}, or --base-url URL")
    if task.key_env and not re.fullmatch(r"[A-Za-z_]\w*", task.key_env):
        raise InvalidInput("--key-env takes the name of an environment variable, never a key: --key-env MY_API_KEY")
    return Choice(name, task.base_url, task.key_env)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"--base-url is where a server answers, such as http://localhost:11434/v1, not {url!r}")
    if parts.username or parts.password or parts.query:
        raise InvalidInput(
            "--base-url must hold no password or key: it would be stored; name its variable with --key-env"
        )


def _variables(chosen: Choice) -> tuple[str, ...]:
    if chosen.key_env:
        return (chosen.key_env,)
    # A server of somebody else's is not told the key of OpenAI.
    return () if chosen.base_url else _KEYS.get(chosen.provider, ())


def key(chosen: Choice) -> str | None:
    """Return the key that a model takes, from the environment."""
    return next((value for name in _variables(chosen) if (value := os.environ.get(name))), None)


def missing_key(chosen: Choice) -> str | None:
    """Return what has to be set before a model can be asked, or None."""
    names = _variables(chosen)
    elsewhere = chosen.provider in _OPENAI and not chosen.key_env and os.environ.get("OPENAI_BASE_URL")
    if not names or key(chosen) or elsewhere:
        return None
    return f"{names[0]} is not set; %env {names[0]}=..., or --model local"


def made(chosen: Choice) -> Model:
    """Return the model; imports pydantic-ai.

    Raises
    ------
    InvalidInput
        When there is no such provider, or what it needs is not installed or not set.
    """
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model

    if chosen.is_local:
        return _local(chosen.bare if chosen.bare != LOCAL else None)
    try:
        if chosen.base_url:
            return _served_at(chosen)
        return infer_model(chosen.name, lambda provider: _provider(provider, key(chosen)))
    except (UserError, ValueError, ImportError) as error:
        raise InvalidInput(f"--model {chosen.name}: {error}") from None


def _local(path: str | None) -> Model:
    from car_sched_nb.runners.local import local_model  # its engine is an extra of its own

    return local_model(path)


def _served_at(chosen: Choice) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    if not chosen.provider:
        provider = OpenAICompatibleProvider("openai-compatible", base_url=chosen.base_url, api_key=key(chosen))
        return OpenAIChatModel(chosen.bare, provider=provider)
    # Named as OpenAI's own model, it is taken for one, behind a proxy: with its prices and its ways.
    openai = OpenAIProvider(base_url=chosen.base_url, api_key=key(chosen) or "no-key")
    kind = OpenAIResponsesModel if chosen.provider == "openai-responses" else OpenAIChatModel
    return kind(chosen.bare, provider=openai)


def _provider(name: str, given: str | None) -> Any:
    from pydantic_ai.providers import infer_provider, infer_provider_class

    made: Any = infer_provider_class(name)
    return made(api_key=given) if given else infer_provider(name)
