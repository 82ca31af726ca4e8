"""Models of requests: OpenAI's fields and the library's options. The schema is made of them, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, create_model

from gpt2fast._validation import shown
from gpt2fast.serving.fields import LIMIT, Schema, checked, option_field, own_options

_TOKEN: Schema = {"type": "integer", "minimum": 0}
_TOKENS: Schema = {"type": "array", "items": _TOKEN}
_TEXTS: Schema = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, LIMIT: "prompts"},
        {**_TOKENS, "minItems": 1, LIMIT: "tokens"},
        {"type": "array", "items": _TOKENS, "minItems": 1, LIMIT: "prompts"},
    ]
}

Text = str | list[int]


def texts(name: str, value: Any) -> list[Text]:
    """A string, strings, token ids or lists of these: always as a list of texts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise TypeError(f"{name} must be a string, token ids, or a list of these, got {shown(value)}")
    if not value:
        raise ValueError(f"{name} must not be an empty list")
    if set(map(type, value)) == {int}:
        return [value]
    for position, one in enumerate(value):
        if not (isinstance(one, str) or (isinstance(one, list) and set(map(type, one)) <= {int})):
            raise TypeError(f"{name}[{position}] must be a string or a list of token ids, got {shown(one)}")
    return value


def text(name: str, value: Any) -> Text:
    """A string or token ids."""
    found = texts(name, value) if value != [] else [[]]
    if len(found) != 1 or (isinstance(value, list) and found[0] is not value and value != []):
        raise TypeError(f"{name} must be a string or a list of token ids, got {shown(value)}")
    return found[0]


def text_list(name: str, value: Any) -> list[Text]:
    """A list of strings or of lists of token ids."""
    if not isinstance(value, list) or set(map(type, value)) == {int}:
        raise TypeError(f"{name} must be a list of strings or of lists of token ids, got {shown(value)}")
    return texts(name, value)


_TEXT: Schema = {"anyOf": [{"type": "string"}, _TOKENS]}
_TEXT_LIST: Schema = {"anyOf": [_TEXTS["anyOf"][1], _TEXTS["anyOf"][3]]}


# Unknown fields and values of other types are refused. Validators are built when they are first needed, which
# takes as long as loading a small model.
_CONFIG = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), defer_build=True)


class RequestModel(BaseModel):
    """A request. Unknown fields and values of other types are refused."""

    model_config = _CONFIG

    model: str | None = Field(None, description="The model's id; there is one, which may be left out.")
    user: str | None = Field(None, description="Ignored.")


class StreamOptions(BaseModel):
    """What a stream holds besides the text."""

    model_config = _CONFIG

    include_usage: bool | None = Field(None, description="Send a last chunk with the tokens used.")
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class JsonSchemaFormat(BaseModel):
    """A JSON schema as OpenAI has it."""

    model_config = _CONFIG

    name: str | None = Field(None, description="Ignored.")
    description: str | None = Field(None, description="Ignored.")
    schema_: dict[str, Any] = Field(alias="schema", description="What the output must match.")
    strict: bool | None = Field(None, description="Ignored: the output always matches.")


class ResponseFormat(BaseModel):
    """What the output must be."""

    model_config = _CONFIG

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class GenerationRequest(RequestModel):
    """Fields that requests for generated texts share; options of generation are added below."""

    stream: bool | None = Field(None, description="Send the text as server-sent events while it is made.")
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    return_token_ids: bool | None = Field(
        None, description="Add `token_ids` to choices, and `prompt_token_ids` to the first one of a prompt."
    )

    def options(self) -> dict[str, Any]:
        """The options of the library among the fields that were given, by the names of requests."""
        given = {name: getattr(self, name) for name in self.model_fields_set & _OPTIONS}
        return {name: value for name, value in given.items() if value is not None}


_OWN = own_options()
_GENERATION: dict[str, Any] = {
    **_OWN,
    "n": (option_field("num_return_sequences"), None),
    "stop": (option_field("stop_strings"), None),
    "logit_bias": (option_field("logit_bias"), None),
}
_OPTIONS = frozenset((*_GENERATION, "max_tokens", "best_of"))


class CompletionFields(GenerationRequest):
    """Fields of a completion that need no further check."""

    echo: bool | None = Field(None, description="Let the text begin with the prompt.")
    suffix: str | None = Field(None, description="Refused: GPT-2 only continues texts.")


CompletionRequest = create_model(
    "CompletionRequest",
    __base__=CompletionFields,
    __doc__="A request for texts that continue prompts.",
    **_GENERATION,
    prompt=(checked(texts, _TEXTS, "What to continue.", [""]), [""]),
    max_tokens=(option_field("max_new_tokens"), None),
    best_of=(option_field("best_of"), None),
    logprobs=(option_field("logprobs"), None),
)


class ContentPart(BaseModel):
    """A part of a message."""

    model_config = _CONFIG

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = _CONFIG

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]
    name: str | None = Field(None, description="Ignored.")
    refusal: str | None = Field(None, description="Ignored.")

    def text(self) -> str:
        """What was said."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatFields(GenerationRequest):
    """Fields of a chat that need no further check."""

    messages: list[Message] = Field(min_length=1, description="The conversation so far.")
    logprobs: bool | None = Field(None, description="Report the log-probability of each token.")
    metadata: dict[str, str] | None = Field(None, description="Ignored.")
    parallel_tool_calls: bool | None = Field(None, description="Ignored.")
    safety_identifier: str | None = Field(None, description="Ignored.")
    prompt_cache_key: str | None = Field(None, description="Ignored.")
    service_tier: str | None = Field(None, description="Ignored.")
    store: bool | None = Field(None, description="Ignored: nothing is stored.")


ChatRequest = create_model(
    "ChatRequest",
    __base__=ChatFields,
    __doc__="A request for what comes next in a conversation.",
    **_GENERATION,
    max_tokens=(option_field("max_new_tokens"), None),
    max_completion_tokens=(option_field("max_new_tokens"), None),
    top_logprobs=(option_field("logprobs"), None),
)


class EmbeddingFields(RequestModel):
    """Fields of a request for embeddings that need no further check."""

    encoding_format: Literal["float", "base64"] | None = Field(None, description="Default: float.")
    dimensions: int | None = Field(None, description="Refused: a vector has the model's width.")
    pooling: Literal["mean", "last", "first", "max"] | None = Field(None, description="Default: mean.")
    normalize: bool | None = Field(None, description="Scale each vector to length 1. Default: true.")


EmbeddingRequest = create_model(
    "EmbeddingRequest",
    __base__=EmbeddingFields,
    __doc__="A request for one vector for each text.",
    input=(checked(texts, _TEXTS, "The texts."), ...),
)


class ScoreFields(RequestModel):
    """Fields of a request for scores that need no further check."""

    stride: int | None = Field(None, ge=1, description="Tokens between two windows of a long text.")


ScoreRequest = create_model(
    "ScoreRequest",
    __base__=ScoreFields,
    __doc__="A request for the log-probabilities of texts.",
    input=(checked(texts, _TEXTS, "The texts, of any length."), ...),
)


class RankFields(RequestModel):
    """Fields of a request for a ranking that need no further check."""

    by: Literal["mean", "total"] | None = Field(
        None, description="Order by the log-probability per token (default), or by the sum."
    )
    overflow: Literal["error", "truncate"] | None = Field(
        None, description="Where prompt and choice exceed the context: refuse, or cut the prompt's beginning."
    )


RankRequest = create_model(
    "RankRequest",
    __base__=RankFields,
    __doc__="A request for the order of choices by their likelihood after a prompt.",
    prompt=(checked(text, _TEXT, "What the choices follow.", ""), ""),
    choices=(checked(text_list, _TEXT_LIST, "The choices, none empty."), ...),
)


class TokenizeRequest(RequestModel):
    """A request for the tokens of a text or of a conversation."""

    prompt: str | None = Field(None, description="The text.")
    messages: list[Message] | None = Field(None, min_length=1, description="The conversation, instead.")
    add_special_tokens: bool | None = Field(
        None, description="Add the tokens that the tokenizer puts around a text, if any. Default: true."
    )
    add_generation_prompt: bool | None = Field(
        None, description="End the conversation where an answer begins. Default: true."
    )
    return_token_strs: bool | None = Field(None, description="Also return each token's text.")


class DetokenizeRequest(RequestModel):
    """A request for the text of tokens."""

    tokens: list[int] = Field(description="Token ids.")


#: The models of all requests with a body.
REQUESTS = cast(
    "Mapping[str, type[RequestModel]]",
    {
        "/v1/completions": CompletionRequest,
        "/v1/chat/completions": ChatRequest,
        "/v1/embeddings": EmbeddingRequest,
        "/v1/score": ScoreRequest,
        "/v1/rank": RankRequest,
        "/tokenize": TokenizeRequest,
        "/detokenize": DetokenizeRequest,
    },
)


def build_validators() -> None:
    """Build the validators of all requests, so that the first request does not wait for them."""
    for model in REQUESTS.values():
        model.model_rebuild()
