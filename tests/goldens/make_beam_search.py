"""Makes beam_search.inc: the transformers library's beam search over a model that is a hash function.

Run with torch and transformers installed: ``python tests/goldens/make_beam_search.py``. The C++ test
computes the same logits from the same integers, exactly, and expects the same tokens. Token i is the i-th of
a, b, ..., g, aa, ab, ..., so that stop strings lie inside tokens and across them. None of them can begin in
the prompt, where transformers looks for them too.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import tokenizers
import torch
import transformers

VOCABULARY = 50
LETTERS = "abcdefg"
MASK = (1 << 64) - 1


def hashed(value: int) -> int:
    """The SplitMix64 finalizer."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def logits_after(tokens: list[int], seed: int, favored: list[int]) -> list[float]:
    """Logits [VOCABULARY] in [-4, 6), multiples of 2^-20: exact in float32."""
    state = seed
    for token in tokens:
        state = hashed(state ^ token)
    logits = [(hashed(state ^ (token + 1) << 32) >> 41) * 2.0**-20 - 4 for token in range(VOCABULARY)]
    for token in favored:
        logits[token] += seed % 3
    return logits


class HashModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    config_class = transformers.GPT2Config

    def __init__(self, config: transformers.GPT2Config, seed: int, favored: list[int]) -> None:
        super().__init__(config)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.seed, self.favored = seed, favored
        self.post_init()

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        return {"input_ids": input_ids}

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        rows = [[logits_after(tokens, self.seed, self.favored)] for tokens in input_ids.tolist()]
        return transformers.modeling_outputs.CausalLMOutput(logits=torch.tensor(rows, dtype=torch.float32))


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level, with tokens of one letter and of two."""
    texts = [*LETTERS, *("".join(pair) for pair in itertools.product(LETTERS, repeat=2))][:VOCABULARY]
    model = tokenizers.models.BPE({text: token for token, text in enumerate(texts)}, [])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def cases() -> list[dict[str, Any]]:
    shapes = list(itertools.product((2, 4), (-1.0, 0.0, 1.0, 2.0), (False, True, "never")))
    stop_strings = [["gb"], ["afa", "ae", "ad"], ["a"], ["b", "c", "d", "e", "f"]]
    return [
        {
            "seed": seed,
            "eos": [[7], [3, 11], [5]][seed % 3],
            "num_beams": num_beams,
            "num_return_sequences": 1 + seed % num_beams,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
            "max_new_tokens": 6 + 5 * (seed % 3),
            "repetition_penalty": 1.5 if seed % 4 == 0 else 1.0,
            "stop_strings": stop_strings[seed % 4] if seed >= len(shapes) else [],
        }
        for seed, (num_beams, length_penalty, early_stopping) in enumerate(shapes * 2)
    ]


def main() -> None:
    lines = [
        "// Made by make_beam_search.py: the transformers library's beam search over a hash function.",
        "// {seed, eos, num_beams, num_return_sequences, length_penalty, early_stopping, max_new_tokens,",
        "//  repetition_penalty, stop_strings, {{tokens, score}, ...}}",
    ]
    for case in cases():
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_head=1, n_layer=1)
        model = HashModel(config, case["seed"], case["eos"])
        prompt = [1, 2, case["seed"]]
        result: Any = model.generate(
            torch.tensor([prompt]),
            eos_token_id=case["eos"],
            pad_token_id=0,
            use_cache=False,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            tokenizer=tokenizer(),
            **{name: value for name, value in case.items() if name not in ("seed", "eos") and value != []},
        )
        hypotheses = []
        lengths = (result.beam_indices >= 0).sum(1).tolist()
        for row, length, score in zip(
            result.sequences.tolist(), lengths, result.sequences_scores.tolist(), strict=True
        ):
            tokens = row[len(prompt) : len(prompt) + length]
            hypotheses.append(f"{{{{{', '.join(map(str, tokens))}}}, {score:.9g}}}")
        stops = ", ".join(f'"{text}"' for text in case["stop_strings"])
        stopping = {False: 0, True: 1, "never": 2}[case["early_stopping"]]
        lines.append(
            f"{{{case['seed']}, {{{', '.join(map(str, case['eos']))}}}, {case['num_beams']}, "
            f"{case['num_return_sequences']}, {case['length_penalty']}, {stopping}, "
            f"{case['max_new_tokens']}, {case['repetition_penalty']}f, {{{stops}}}, "
            f"{{{', '.join(hypotheses)}}}}},"
        )
    path = pathlib.Path(__file__).with_name("beam_search.inc")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
