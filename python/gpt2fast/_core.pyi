"""The C++ core (see src/): numbers in, numbers out; every long call releases the GIL."""

from array import array
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# Values of FinishReason, in C++ order.
FINISH_NONE: int
FINISH_LENGTH: int
FINISH_STOP: int
FINISH_EOS: int
FINISH_TIME: int
FINISH_CANCELLED: int
FINISH_CONSTRAINT: int

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
    weight: NDArray[np.float32], format: int, *, transposed: bool = False, threads: int = 1
) -> NDArray[np.uint8]:
    """Pack [in_features, out_features] (transposed: [out_features, in_features]) columns into a blob.

    Blobs of consecutive column ranges (each but the last a multiple of 16 columns) concatenate to the blob
    of all.
    """

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

class Request:
    """One sequence's prompt and options; fields mirror SamplingOptions and StopOptions by name."""

    @property
    def prompt(self) -> list[int]: ...
    @prompt.setter
    def prompt(self, ids: Sequence[int] | NDArray[np.int32]) -> None: ...
    max_new_tokens: int
    do_sample: bool
    seed: int
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
    max_seconds: float
    logprobs: int  # -1: none; k >= 0: the chosen token's and the k best
    prompt_lookup_num_tokens: int  # 0: off
    slide: bool  # past the context window: drop the older half and prefill the rest again
    use_prefix_cache: bool
    prefix: Prefix | None  # write only
    assistant: Engine | None  # write only
    num_assistant_tokens: int
    def __init__(self) -> None: ...
    def set_hooks(
        self,
        *,
        allowed_tokens: Callable[[NDArray[np.int32]], NDArray[np.uint32] | None] | None = None,
        process_scores: Callable[[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]], None]
        | None = None,
        is_complete: Callable[[NDArray[np.int32]], bool] | None = None,
    ) -> None:
        """Called for every token: `allowed_tokens(output)` returns a bit set of (vocab_size + 31) // 32 words
        or None; `process_scores(prompt, output, scores)` changes the scores [vocab_size] in place;
        `is_complete(output)`, called after each token, ends the text with FINISH_STOP when it is true."""

def next_token_distribution(
    request: Request, output: NDArray[np.int32], logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probabilities [vocab_size] that the next token is drawn from, after processors and filters."""

class Run:
    """Requests being generated; their slots are given back when it is finished, closed or collected."""

    def __len__(self) -> int: ...
    def advance(self) -> list[tuple[int, list[int], int, int | None]]:
        """Steps until a request gains tokens or finishes; for each that did: its index, its tokens since the
        last call, its finish reason and its safe bytes. Empty only when all are finished."""

    def finish(self) -> None:
        """Steps until all requests are finished; one crossing."""

    def cancel(self) -> None:
        """From any thread: finish what runs with FINISH_CANCELLED within one step."""

    def close(self) -> None: ...
    def token_ids(self, index: int) -> list[int]:
        """The tokens generated so far, eos included when it ended the sequence."""

    def finish_reason(self, index: int) -> int: ...
    def safe_bytes(self, index: int) -> int | None:
        """Bytes of output that no stop string can take back; at the end, all that are kept.

        None where there are no stop strings: all of them.
        """

    def cached_tokens(self, index: int) -> int:
        """Prompt tokens that were taken from the prefix cache."""

    def logprobs(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        """Chosen log-probabilities [n], best ids [n, k], their log-probabilities [n, k]."""

class CancelFlag:
    """Ends a search over beams from any thread, within a step; what is found so far is its result."""

    def __init__(self) -> None: ...
    def cancel(self) -> None: ...

class Engine:
    """A loaded model with its KV cache; safe to use from many threads."""

    def __init__(
        self,
        model_path: str,
        *,
        n_layer: int,
        n_head: int,
        head_dim: int,
        n_positions: int,
        vocab_size: int,
        cache_format: int,
        threads: int,
        max_sequences: int,
        max_step_tokens: int,
        prefix_cache_bytes: int = 0,
    ) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def cache_bytes_per_sequence(self) -> int: ...
    def start(self, requests: Sequence[Request]) -> Run: ...
    def beam_search(
        self,
        request: Request,
        *,
        num_beams: int,
        num_return_sequences: int = 1,
        length_penalty: float = 1.0,
        early_stopping: int = 0,
        cancel: CancelFlag | None = None,
    ) -> list[tuple[list[int], float, int]]:
        """The best hypotheses, best first: tokens, score, finish reason. Early stopping: 0 heuristic, 1 at
        num_beams hypotheses, 2 never early."""

    def forward(
        self,
        sequences: Sequence[NDArray[np.int32]],
        past: Sequence[NDArray[np.float32]] | None = None,
        want_past: bool = True,
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]] | None]:
        """Hidden states [tokens, n_embd] per sequence; past per layer [2, batch, heads, tokens, head_dim].

        A past, given or wanted, needs equally long sequences.
        """

    def logits(
        self, sequences: Sequence[NDArray[np.int32]], rows: Sequence[NDArray[np.int64]] | None
    ) -> list[NDArray[np.float32]]:
        """Scores [rows, vocab_size] per sequence; rows=None means every token's."""

    def score(
        self, sequences: Sequence[NDArray[np.int32]], first: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each token from position first[i] (>= 1) on, given those before it."""

    def token_logprobs(
        self, sequences: Sequence[NDArray[np.int32]], first: Sequence[int], top: int
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]]:
        """What `score` gives, with the `top` likeliest ids and their log-probabilities, as `Run.logprobs`."""

    def score_continuations(
        self,
        prompt: NDArray[np.int32],
        continuations: Sequence[NDArray[np.int32]],
        prefix: Prefix | None = None,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each continuation's tokens; the prompt is read once."""

    def clear_prefix_cache(self) -> None: ...
