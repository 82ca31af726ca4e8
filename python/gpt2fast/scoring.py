"""How likely texts are, and what they are made into: scores, perplexity, ranked choices, embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from gpt2fast._native import core
from gpt2fast._validation import Choice, Flag, Instance
from gpt2fast.config import ModelConfig
from gpt2fast.inference.results import RankedChoice, TextScore
from gpt2fast.text.prompts import Prompt, read_prompt, read_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.prefix import CacheFormat, Prefix
    from gpt2fast.text.lazy_tokenizer import LazyTokenizer


class Scoring:
    """The methods of :class:`gpt2fast.GPT2` that read texts and write none."""

    _engine: core.Engine
    _tokenizer: LazyTokenizer | None

    if TYPE_CHECKING:

        @property
        def config(self) -> ModelConfig:
            """Sizes of the model."""

        @property
        def _cache_format(self) -> CacheFormat: ...

    @overload  # a str is a sequence of texts to the type checker, and one text here
    def score(self, texts: Prompt, *, stride: int | None = None) -> TextScore: ...  # type: ignore[overload-overlap]

    @overload
    def score(self, texts: Sequence[Prompt], *, stride: int | None = None) -> list[TextScore]: ...

    def score(
        self, texts: Prompt | Sequence[Prompt], *, stride: int | None = None
    ) -> TextScore | list[TextScore]:
        """The log-probability of each token, given those before it; the vocabulary's scores are never kept.

        Parameters
        ----------
        texts : str, token ids, or a list of these
            As for :meth:`gpt2fast.GPT2.generate`, of any length.
        stride : int, optional
            A text beyond the context is read in windows as large as the context; so many tokens lie between
            the starts of two. Default: half the context. Each token is scored once, in the first window that
            holds it with a token before it.

        Returns
        -------
        TextScore or list of TextScore
            A list when ``texts`` is one.

        Raises
        ------
        TypeError, ValueError
            A wrong text or stride; raised before any work.
        """
        from gpt2fast.inference.scoring import token_logprobs

        ids, single = read_prompts(texts, self.config, self._tokenizer, name="text")
        values = token_logprobs(self._engine, ids, self.config.n_positions, stride=stride)
        scores = [TextScore(one, chosen) for one, (chosen, _, _) in zip(ids, values, strict=True)]
        return scores[0] if single else scores

    def perplexity(self, text: Prompt, *, stride: int | None = None) -> float:
        """``exp`` of the mean negative log-likelihood of the text's tokens after the first.

        Parameters and errors as of :meth:`score`; the text has at least two tokens.
        """
        from gpt2fast.inference.scoring import token_logprobs

        ids = read_prompt(text, self.config, self._tokenizer, name="text")
        if len(ids) < 2:
            raise ValueError(
                f"text must have at least two tokens, got {len(ids)}: the first is not predicted"
            )
        ((chosen, _, _),) = token_logprobs(self._engine, [ids], self.config.n_positions, stride=stride)
        return math.exp(-math.fsum(chosen[1:].tolist()) / (len(ids) - 1))

    def rank(
        self,
        prompt: Prompt,
        choices: Sequence[Prompt],
        *,
        by: Literal["mean", "total"] = "mean",
        prefix: Prefix | None = None,
    ) -> list[RankedChoice]:
        """The choices in the order of their likelihood after a prompt, the likeliest first.

        The prompt is read once, whatever the number of choices.

        Parameters
        ----------
        prompt : str or token ids
            What the choices follow.
        choices : list of str or of token ids
            At least one, none empty. A choice's tokens follow the prompt's: a word usually begins with its
            space, as in ``" yes"``.
        by : {"mean", "total"}
            The log-probability per token, or the sum, which favours short choices.
        prefix : Prefix, optional
            Comes before the prompt; its keys and values are not computed again.

        Raises
        ------
        TypeError, ValueError
            A wrong argument, or prompt and choice together exceed the context; raised before any work.
        """
        from gpt2fast.inference.scoring import continuation_logprobs

        Choice(("mean", "total"))("by", by)
        before = None
        if prefix is not None:
            Instance("gpt2fast.inference.prefix", "Prefix")("prefix", prefix).check_model(self._cache_format)
            before = prefix.token_ids
        start = read_prompt(prompt, self.config, self._tokenizer, before=before)
        tokens = self._read_choices(choices, len(start))
        scores = continuation_logprobs(self._engine, start, tokens, prefix)
        ranked = []
        for index, (choice, ids, logprobs) in enumerate(zip(choices, tokens, scores, strict=True)):
            total = math.fsum(logprobs.tolist())
            shown = choice if isinstance(choice, str) else ids
            ranked.append(RankedChoice(shown, index, ids, logprobs, total, total / len(ids)))
        return sorted(ranked, key=lambda one: getattr(one, by), reverse=True)

    def _read_choices(self, choices: Sequence[Prompt], prompt_tokens: int) -> list[list[int]]:
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise TypeError("choices must be a list of at least one text or list of token ids")
        for index, choice in enumerate(choices):
            if len(choice) == 0:
                raise ValueError(f"choices[{index}] must not be empty")
        tokens, single = read_prompts(choices, self.config, self._tokenizer, name="choice")
        if single:
            raise TypeError("choices must be a list of texts or of lists of token ids, got a list of ids")
        for index, ids in enumerate(tokens):
            if prompt_tokens + len(ids) > self.config.n_positions:
                raise ValueError(
                    f"choices[{index}] ({len(ids)} tokens) and the prompt ({prompt_tokens}) exceed the "
                    f"model's n_positions ({self.config.n_positions})"
                )
        return tokens

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        pooling: Literal["mean", "last", "first", "max"] = "mean",
        normalize: bool = False,
    ) -> NDArray[np.float32]:
        """One vector for each text, of the hidden states after the last LayerNorm.

        Parameters
        ----------
        texts : str, token ids, or a list of these
            Each at most as long as the context.
        pooling : {"mean", "last", "first", "max"}
            Over the tokens; only the last token has seen the whole text.
        normalize : bool
            Scale each vector to length 1.

        Returns
        -------
        float32 array, shape (n_embd,) or (texts, n_embd)
            The latter when ``texts`` is a list.

        Raises
        ------
        TypeError, ValueError
            A wrong argument or a text that is too long; raised before any work.
        """
        from gpt2fast.inference.scoring import POOLINGS, embeddings

        Choice(POOLINGS)("pooling", pooling)
        normalize = Flag()("normalize", normalize)
        ids, single = read_prompts(texts, self.config, self._tokenizer, name="text")
        for index, one in enumerate(ids):
            if len(one) > self.config.n_positions:
                raise ValueError(
                    f"texts[{index}] has {len(one)} tokens, more than the model's n_positions "
                    f"({self.config.n_positions})"
                )
        vectors = embeddings(self._engine, ids, self.config.n_embd, pooling, normalize=normalize)
        return vectors[0] if single else vectors
