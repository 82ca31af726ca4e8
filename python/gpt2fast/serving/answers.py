"""What answers hold, for the schema: they are made as plain objects, which tests compare with these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class CachedTokens(_Answer):
    """Of the prompt's tokens, those that weren't computed again."""

    cached_tokens: int


class Usage(_Answer):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None


class Logprobs(_Answer):
    """One entry for each token; the first of an echoed prompt is null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Where each token begins in `text`, in characters.")
    top_token_ids: list[dict[str, int] | None] | None = Field(
        None, description="With `return_token_ids`: the ids of the names in `top_logprobs`."
    )


class CompletionChoice(_Answer):
    """One text."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: FinishReason | None
    seed: int | None = Field(None, description="What its random numbers began with.")
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(_Answer):
    """Texts that continue prompts; those of the first prompt come first."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class TopToken(_Answer):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TopToken):
    """A token that was chosen."""

    top_logprobs: list[TopToken]


class ChatLogprobs(_Answer):
    """One entry for each token."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(_Answer):
    """What was said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Answer):
    """One way for the conversation to go on."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    seed: int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Chat(_Answer):
    """What comes next in a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Embedding(_Answer):
    """A text's vector: numbers, or 32-bit little-endian floats in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(_Answer):
    """One vector for each text."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class Score(_Answer):
    """How likely a text is; null where nothing stands before a token."""

    object: Literal["score"]
    index: int
    token_ids: list[int]
    token_logprobs: list[float | None]
    total_logprob: float
    mean_logprob: float | None
    perplexity: float | None


class Scores(_Answer):
    """One score for each text."""

    object: Literal["list"]
    model: str
    data: list[Score]
    usage: Usage


class RankedChoice(_Answer):
    """How likely a choice is after the prompt."""

    object: Literal["rank"]
    index: int
    choice: str | list[int]
    token_ids: list[int]
    token_logprobs: list[float | None]
    total_logprob: float
    mean_logprob: float


class Ranking(_Answer):
    """The choices, the likeliest first."""

    object: Literal["list"]
    model: str
    data: list[RankedChoice]
    usage: Usage


class Tokens(_Answer):
    """The tokens of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class TextOfTokens(_Answer):
    """The text of tokens."""

    prompt: str


class TokenizerInfo(_Answer):
    """The tokenizer."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    add_bos_token: bool
    add_prefix_space: bool
    model_max_length: int
    vocab_size: int
    chat_template: str | None


class Model(_Answer):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(_Answer):
    """All models that are served: one."""

    object: Literal["list"]
    data: list[Model]


class Status(_Answer):
    """Alive, or ready."""

    status: str


class ErrorDetails(_Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Answer):
    """Why there is no other answer."""

    error: ErrorDetails


#: The answer of each route that gives JSON.
ANSWERS: dict[str, type[BaseModel]] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": Chat,
    "/v1/embeddings": Embeddings,
    "/v1/score": Scores,
    "/v1/rank": Ranking,
    "/v1/models": Models,
    "/v1/models/{model}": Model,
    "/tokenize": Tokens,
    "/detokenize": TextOfTokens,
    "/tokenizer_info": TokenizerInfo,
    "/health": Status,
    "/ready": Status,
}
