"""A model of pydantic-ai whose provider is llama.cpp in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import FinishReason, ModelMessage, ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage
from pydantic_core import from_json

from car_sched_nb.runners.local_engine import Chunk, Generation, generate
from car_sched_nb.runners.local_files import ModelFile
from car_sched_nb.runners.local_prompts import Step, plan

MAX_TOKENS = 512
"""Of a text, so that a model that rambles ends."""

MAX_JSON_TOKENS = 2048
"""Of an answer that a schema holds: the schema itself has an end."""

_PROFILE = ModelProfile(
    supports_json_schema_output=True,
    supports_json_object_output=True,
    default_structured_output_mode="native",
    supports_image_input=False,
    supports_document_input=False,
    supports_audio_file_input=False,
    supports_video_input=False,
)
_PASSED_ON = ("top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


class LocalModel(Model[Any]):
    """One GGUF file; of the same file there is one in memory, however many of these there are."""

    unsupported_settings = frozenset({"timeout", "parallel_tool_calls", "logit_bias", "extra_headers", "service_tier"})

    # What was wrong with an answer comes as it is, not as something that the user said.
    _renders_retry_feedback = True
    _announces_lookalike_notes = False

    def __init__(self, file: ModelFile) -> None:
        super().__init__(profile=_PROFILE)
        self._file = file

    @property
    def model_name(self) -> str:
        return f"local:{self._file.name}"

    @property
    def system(self) -> str:
        return "local"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self.request_stream(messages, model_settings, model_request_parameters) as response:
            async for _ in response:
                pass
        return response.get()

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        prepared, parameters = self.prepare_request(model_settings, model_request_parameters)
        settings = prepared or ModelSettings()
        step = plan(messages, settings, parameters, small=self._file.small)
        async with generate(str(self._file.path), _body(step, settings)) as (generation, chunks):
            yield LocalResponse(parameters, self.model_name, step, generation, chunks)


def _body(step: Step, settings: ModelSettings) -> dict[str, Any]:
    held = step.grammar is not None and not step.chooses
    body: dict[str, Any] = {
        "messages": step.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # or nothing could be cancelled before the first token
        "timings_per_token": True,
        "max_tokens": settings.get("max_tokens", MAX_JSON_TOKENS if held else MAX_TOKENS),
        "temperature": settings.get("temperature", 0.0),
        "seed": 0,
    }
    body |= {name: settings[name] for name in _PASSED_ON if settings.get(name) is not None}  # type: ignore[literal-required]
    if stop := settings.get("stop_sequences"):
        body["stop"] = stop
    if step.grammar is not None:
        body["grammar"] = step.grammar
    return body


@dataclass
class LocalResponse(StreamedResponse):
    """What the model says, while it says it."""

    _model_name: str
    _step: Step
    _generation: Generation
    _chunks: AsyncIterator[Chunk]
    _said: str = field(default="", init=False)
    _timestamp: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        told = 0
        async for chunk in self._chunks:
            self._count(chunk)
            piece = _piece(chunk)
            if not piece:
                continue
            self._said += piece
            # While a tool's name and arguments come, nothing is text; an answer is, from its first word.
            text = _answer_so_far(self._said) if self._step.chooses else self._said.lstrip()
            for event in self._parts_manager.handle_text_delta(vendor_part_id="text", content=text[told:]):
                yield event
            told = max(told, len(text))
        for event in self._ended(told):
            yield event

    def _ended(self, told: int) -> list[ModelResponseStreamEvent]:
        """Return what is known only at the end: a call, a structured answer, or that nothing was ended."""
        if self._step.grammar is None or (told and self._step.chooses):
            return []
        try:
            whole = json.loads(self._said)
        except ValueError:
            raise self._unfinished() from None
        if not self._step.chooses:
            return []
        if "tool" in whole:
            self.finish_reason = "tool_call"
            called = self._parts_manager.handle_tool_call_part(
                vendor_part_id="call", tool_name=whole["tool"], args=whole["arguments"]
            )
            return [called]
        return list(self._parts_manager.handle_text_delta(vendor_part_id="text", content=json.dumps(whole["answer"])))

    def _unfinished(self) -> Exception:
        if self.finish_reason == "length":
            return UnexpectedModelBehavior(
                f"{self._model_name} was cut off in the middle of its JSON after {self.usage.output_tokens} tokens; "
                "give shorter fields (max_length), fewer of them, or a larger model"
            )
        return UnexpectedModelBehavior(f"{self._model_name} cannot be held to this schema", self._said[:500])

    def _count(self, chunk: Chunk) -> None:
        """Take over the engine's own figures; a cancelled run has those of its last token."""
        if done := chunk.get("usage"):
            self._usage = _usage(
                done["prompt_tokens"],
                done["completion_tokens"],
                (done.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            )
        elif now := chunk.get("timings"):
            self._usage = _usage(now["cache_n"] + now["prompt_n"], now["predicted_n"], now["cache_n"])
        elif now := chunk.get("prompt_progress"):
            self._usage = _usage(now["processed"], 0, now["cache"])
        for one in chunk.get("choices", ()):
            if reason := one.get("finish_reason"):
                self.finish_reason = _REASONS.get(reason, "stop")

    async def close_stream(self) -> None:
        self._generation.stop()

    @property
    def model_name(self) -> str:
        return self._model_name

    @property
    def provider_name(self) -> str:
        return "local"

    @property
    def provider_url(self) -> None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self._timestamp


_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def _usage(given: int, said: int, cached: int) -> RequestUsage:
    return RequestUsage(input_tokens=given, output_tokens=said, cache_read_tokens=cached)


def _piece(chunk: Chunk) -> str:
    choices = chunk.get("choices")
    return str(choices[0]["delta"].get("content") or "") if choices else ""


def _answer_so_far(said: str) -> str:
    """Return what there is of the text in `{"answer": "..."}`; of an answer that is no text, nothing."""
    if '"answer"' not in said[:12]:
        return ""
    answer = from_json(said, allow_partial="trailing-strings").get("answer", "")
    return answer if isinstance(answer, str) else ""
