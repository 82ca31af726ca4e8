"""The C++ core (see src/): numbers in, numbers out; every long call releases the GIL."""

from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

class FinishReason:
    """Why a text ended; NONE: it has not."""

    NONE: ClassVar[FinishReason]
    LENGTH: ClassVar[FinishReason]
    STOP: ClassVar[FinishReason]
    EOS: ClassVar[FinishReason]
    TIME: ClassVar[FinishReason]
    CANCELLED: ClassVar[FinishReason]
    CONSTRAINT: ClassVar[FinishReason]

class EarlyStopping:
    """When a search over beams ends; see transformers' option ``early_stopping``."""

    FALSE: ClassVar[EarlyStopping]
    TRUE: ClassVar[EarlyStopping]
    NEVER: ClassVar[EarlyStopping]

class CacheFormat:
    """How keys and values are kept."""

    FLOAT32: ClassVar[CacheFormat]
    FLOAT16: ClassVar[CacheFormat]
    INT8: ClassVar[CacheFormat]

#: Chosen log-probabilities [tokens], the likeliest ids [tokens, k], their log-probabilities [tokens, k].
LogprobArrays: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
#: What a text has gained: its index, its new tokens, its finish reason, the bytes of output that no stop
#: string can take back (None without stop strings), and the new tokens' log-probabilities if wanted.
Progress: TypeAlias = tuple[int, list[int], FinishReason, int | None, LogprobArrays | None]
#: A whole text: its tokens, finish reason, bytes to keep (None: all), prompt tokens that were at hand,
#: log-probabilities if wanted, and the score of a search over beams.
Text: TypeAlias = tuple[
    list[int], FinishReason, int | None, int, LogprobArrays | None, float, float, float, float
]

# WeightFormat
FORMAT_FLOAT32: int
FORMAT_BFLOAT16: int
FORMAT_INT8: int
FORMAT_INT4: int

def build_config() -> dict[str, str]: ...
def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def usable_cores() -> int:
    """Cores this process may use: affinity mask and cgroup quota."""

def load_library(path: str) -> str:
    """Open ONNX Runtime, telemetry off, and create the environment; returns its version, or ImportError."""

def packed_weight_bytes(format: int, in_features: int, out_features: int) -> int: ...
def pack_linear(
    weight: NDArray[np.float32],
    format: int,
    *,
    transposed: bool = False,
    threads: int = 1,
    feedback: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Pack [in_features, out_features] (transposed: [out_features, in_features]) columns into a blob.

    Blobs of consecutive column ranges (each but the last a multiple of 16 columns) concatenate to the blob
    of all. ``feedback``, for int4, is what :func:`error_feedback` returns for the weight's inputs.
    """

def error_feedback(moments: NDArray[np.float32]) -> NDArray[np.float32]:
    """How errors of rows are made up for by later rows, from second moments; both [blocks, 1024, 1024]."""

def unpack_linear(
    packed: NDArray[np.uint8], format: int, in_features: int, first_column: int, columns: int
) -> NDArray[np.float32]:
    """Dequantise columns of a blob; returns [columns, in_features]."""

class Prefix:
    """Keys and values of leading tokens, to start sequences from; layers [2, 1, heads, tokens, head_dim]."""

    def __init__(self, tokens: NDArray[np.int32], layers: Sequence[NDArray[np.float32]]) -> None: ...

class TokenBytes:
    """What each token of a vocabulary contributes to the text; immutable, shared by requests.

    Token i has data[offsets[i]:offsets[i + 1]]; offsets are int32. Those in `silent`, or beyond the table,
    have nothing.
    """

    def __init__(
        self, data: bytes, offsets: array[int] | NDArray[np.int32], silent: Sequence[int]
    ) -> None: ...

class GenerationOptions:
    """What the texts of a call share. Not to be changed once a call has it."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    min_new_tokens: int
    suppress_tokens: list[int]
    bad_words: list[list[int]]
    logit_bias: list[tuple[int, float]]
    forced_prefix: list[int]
    eos_token_ids: list[int]
    stop_strings: list[bytes]  # they need token_bytes
    token_bytes: TokenBytes | None  # write only
    include_stop_string: bool
    stop_begins_in_prompt: bool  # a stop string may begin in the prompt and end in the output
    logprobs: int  # -1: none; k >= 0: the chosen token's and the k best
    prompt_lookup_num_tokens: int  # 0: off
    slide: bool  # past the context window: drop the older half and read the rest again
    use_prefix_cache: bool
    prefix_scope: int
    prefix: Prefix | None  # write only
    assistant: Engine | None  # write only
    num_assistant_tokens: int
    num_beams: int
    num_return_sequences: int  # for a beam search
    length_penalty: float
    early_stopping: EarlyStopping
    def __init__(self) -> None: ...

class Request:
    """One text to generate, or one search over beams."""

    def __init__(self, prompt: Sequence[int] | NDArray[np.int32], seed: int = 0) -> None: ...
    @property
    def prompt(self) -> list[int]: ...
    @property
    def seed(self) -> int: ...
    def set_hooks(self, hooks: Any) -> None:
        """The functions that `hooks` has as attributes, or None, are called for every token:
        `allowed_tokens(output)` returns a bit set of (vocab_size + 31) // 32 words or None;
        `process_scores(prompt, output, scores)` changes the scores [vocab_size] in place;
        `is_complete(output)`, called after each token, ends the text with STOP when it is true.
        What they raise becomes the attribute `error` until the caller has it."""

def next_token_distribution(
    request: Request, options: GenerationOptions, output: NDArray[np.int32], logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probabilities [vocab_size] that the next token is drawn from, after processors and filters."""

class ReadyQueue:
    """Says which of many calls have something for their callers."""

    def __init__(self) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable while take() has something; RuntimeError where there is none."""

    def take(self) -> list[int]:
        """The keys of the calls that became ready, each once; never blocks."""

    def wait(self) -> None:
        """Block until take() has something."""

    def close(self) -> None:
        """End all waits."""

class Call:
    """Work inside an engine. Dropping the object cancels what is not done."""

    def wait(self) -> None:
        """Block until everything is done; raises what went wrong."""

    def begin(self) -> None:
        """Begin a call that was made with a queue; an engine at work may have done so already."""

    def done(self) -> bool:
        """Whether everything is done; raises what went wrong; never blocks."""

    def cancel(self) -> None:
        """From any thread: unfinished texts end with CANCELLED within a step."""

    def close(self) -> None:
        """Cancel, and return when the engine has let go of the call."""

    def results(self) -> Any:
        """What the method that started the call says, to every reader; RuntimeError before it is done."""

class GenerationCall(Call):
    """Texts being generated. Streamed ones report their tokens as they are chosen."""

    def take(self) -> list[Progress]:
        """What has been reported since the last time; never blocks."""

    def next(self) -> list[Progress]:
        """Block until something is reported; empty only when all texts are finished."""

    def results(self) -> list[list[Text]]:
        """For each request its text, or the best texts of its search, the best first."""

class Engine:
    """A loaded model. All calls take part in one stream of steps; safe to use from many threads.

    Every method that starts a call takes a ReadyQueue, which gets ``key`` when the call has something for its
    caller; without one, a thread is expected to wait for the call.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        name: str,
        weights_path: str,
        tensors: Sequence[tuple[str, bool, Sequence[int], int]],
        n_layer: int,
        n_head: int,
        head_dim: int,
        n_positions: int,
        vocab_size: int,
        cache_format: CacheFormat,
        threads: int,
        max_sequences: int,
        max_step_tokens: int,
        prefix_cache_bytes: int = 0,
        max_waiting: int = -1,
        read_ahead: int = 16,
        decode_slowdown: float = 2.0,
    ) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def cache_bytes_per_sequence(self) -> int: ...
    def generate(
        self,
        requests: Sequence[Request],
        options: GenerationOptions,
        *,
        priority: int = 0,
        max_seconds: float = 0.0,
        cancelled: bool = False,
        streamed: bool = False,
        queue: ReadyQueue | None = None,
        key: int = 0,
    ) -> GenerationCall:
        """Generate a text for each request; max_seconds 0: no limit."""

    def forward(
        self,
        sequences: Sequence[NDArray[np.int32]],
        past: Sequence[NDArray[np.float32]] | None = None,
        want_past: bool = True,
        layers: Sequence[int] = (),
        *,
        queue: ReadyQueue | None = None,
        key: int = 0,
    ) -> Call:
        """Results: hidden states [tokens, n_embd] per sequence; the past per layer [2, batch, heads, tokens,
        head_dim] or None, which, given or wanted, needs equally long sequences; and, if ``layers`` are given,
        the hidden states before them [len(layers), tokens, n_embd] per sequence."""

    def logits(
        self,
        sequences: Sequence[NDArray[np.int32]],
        rows: Sequence[NDArray[np.int64]] | None = None,
        *,
        queue: ReadyQueue | None = None,
        key: int = 0,
    ) -> Call:
        """Results: scores [rows, vocab_size] per sequence; rows=None means every token's."""

    def score(
        self,
        sequences: Sequence[NDArray[np.int32]],
        first: Sequence[int],
        top: int = 0,
        *,
        queue: ReadyQueue | None = None,
        key: int = 0,
    ) -> Call:
        """Results: LogprobArrays of each sequence's tokens from position first[i] (>= 1) on."""

    def score_continuations(
        self,
        prompt: NDArray[np.int32],
        continuations: Sequence[NDArray[np.int32]],
        prefix: Prefix | None = None,
        prefix_scope: int = 0,
        *,
        queue: ReadyQueue | None = None,
        key: int = 0,
    ) -> Call:
        """Results: LogprobArrays of each continuation's tokens; the prompt is read once."""

    def clear_prefix_cache(self) -> None: ...
    def stats(self) -> dict[str, Any]:
        """The fields of gpt2fast.inference.statistics.EngineStats."""

    def close(self) -> None:
        """End every call and free the memory; later calls raise RuntimeError."""

def end_all_calls() -> None:
    """For the end of the interpreter: end all calls of all engines; later ones raise RuntimeError."""
