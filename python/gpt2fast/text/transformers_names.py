"""What users of ``transformers`` ask a tokenizer for: named tokens, the vocabulary, ids in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from gpt2fast._validation import Choice
from gpt2fast.text.backend import explained
from gpt2fast.text.unicode_text import check_text

if TYPE_CHECKING:
    from gpt2fast.text.backend import Backend
    from gpt2fast.text.encoding import EncodedTexts
    from gpt2fast.text.tokenizer_settings import TokenizerSettings

_CAN_BE_SET = ("pad_token", "pad_token_id", "padding_side")
_FIXED = "a tokenizer doesn't change: a new token has no row in the model's table"
_BY_CALL = "give padding and truncation to each call of the tokenizer"
_CALL = "write tokenizer(text)"
_WRITE = "write tokenizer.to_json() to a file tokenizer.json"
_BACKEND = "write tokenizers.Tokenizer.from_str(tokenizer.to_json())"
_ADDED = "tokenizer.get_vocab() has them all, tokenizer.all_special_tokens the special ones"
_SETTINGS = "write tokenizer.settings, which has what lies beside the vocabulary"
_ROLE = "write tokenizer.roles(), which has those that there are"
_TEXT = "a model's answer is text: out.text"
# Attributes of transformers' tokenizers -> what to write.
_OTHERS = {
    **dict.fromkeys(("add_tokens", "add_special_tokens", "train_new_from_iterator"), _FIXED),
    **dict.fromkeys(("encode_plus", "batch_encode_plus", "prepare_for_model"), _CALL),
    **dict.fromkeys(("save_pretrained", "push_to_hub", "save_vocabulary", "save_chat_templates"), _WRITE),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"), "write tokenizer.all_special_tokens"
    ),
    **dict.fromkeys(("added_tokens_decoder", "added_tokens_encoder", "get_added_vocab"), _ADDED),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space", "init_kwargs"), _SETTINGS),
    **dict.fromkeys(("backend_tokenizer", "backend", "decoder", "model"), _BACKEND),
    **dict.fromkeys(("clean_up_tokenization", "clean_up_tokenization_spaces"), "write tokenizer.cleans_up"),
    **dict.fromkeys((f"{role}_token{end}" for role in ("sep", "cls", "mask") for end in ("", "_id")), _ROLE),
    **dict.fromkeys(("set_truncation_and_padding", "update_post_processor"), _BY_CALL),
    **dict.fromkeys(("get_response_parser", "parse_response", "response_template"), _TEXT),
    "build_inputs_with_special_tokens": "write tokenizer.encode(text)",
    "convert_tokens_to_string": "write tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens))",
    "encode_message_with_chat_template": "write tokenizer.apply_chat_template(messages)",
    "from_pretrained": "write Tokenizer.from_source(...)",
    "get_chat_template": "write tokenizer.chat_template",
    "get_special_tokens_mask": "compare the ids with tokenizer.all_special_ids",
    "id_to_token": "write tokenizer.convert_ids_to_tokens(id)",
    "is_fast": "leave it out: every tokenizer is a fast one",
    "max_len_single_sentence": "write tokenizer.model_max_length",
    "model_input_names": "tokenizer(text) gives input_ids and attention_mask",
    "name_or_path": "the model is in model.directory.path",
    "num_special_tokens_to_add": 'write len(tokenizer.encode(""))',
    "pad": "write tokenizer(texts, padding=True)",
    "pad_token_type_id": "leave it out: GPT-2 has no token types",
    "special_tokens_map": "write tokenizer.roles()",
    "split_special_tokens": "write tokenizer.encode_bytes(text.encode()), which takes them literally",
    "token_to_id": "write tokenizer.convert_tokens_to_ids(token)",
    "vocab": "write tokenizer.get_vocab()",
}
_HINTS_OF_SETTING = {
    "chat_template": "write apply_chat_template(..., chat_template=...)",
    "model_max_length": "write tokenizer(text, max_length=...)",
    "truncation_side": "generate(..., overflow='truncate') cuts prompts from the left",
}


def is_single_id(value: Any) -> bool:
    """Whether a value is one integer, of Python or of an array library, rather than several."""
    return isinstance(value, int) or getattr(value, "ndim", None) == 0


class TransformersNames:
    """A part of :class:`gpt2fast.Tokenizer`, which keeps the fields."""

    _backend: Backend
    _vocabulary: dict[str, int]
    _settings: TokenizerSettings
    _special: frozenset[int]
    _padding_token: str | None
    _padding_side: str
    _chat_template: str | None

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in _CAN_BE_SET:
            hint = f": {_HINTS_OF_SETTING[name]}" if name in _HINTS_OF_SETTING else ""
            raise AttributeError(
                f"{name} can't be set; of a tokenizer, only {', '.join(_CAN_BE_SET)} can{hint}"
            )
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a type checker knows what is there

        def __getattr__(self, name: str) -> Any:
            hint = f"; {_OTHERS[name]}" if name in _OTHERS else ""
            raise AttributeError(f"'Tokenizer' object has no attribute {name!r}{hint}")

    def __len__(self) -> int:
        """The number of the tokenizer's tokens, added ones included; the model's table may be larger."""
        return len(self._vocabulary)

    def __bool__(self) -> bool:
        return True

    @property
    def chat_template(self) -> str | None:
        """A Jinja template for conversations, if one came with the tokenizer."""
        return self._chat_template

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens with a role, then the special ones that are named without."""
        return list(dict.fromkeys([*self.roles().values(), *self._settings.extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of :attr:`all_special_tokens`."""
        ids = map(self._vocabulary.get, self.all_special_tokens)
        return [token_id for token_id in ids if token_id is not None]

    def roles(self) -> dict[str, str]:
        """The tokens that have a role, ``"bos_token"`` and so on."""
        roles = {role: token for role, token in self._settings.roles.items() if role != "pad_token"}
        return roles if self._padding_token is None else {**roles, "pad_token": self._padding_token}

    @property
    def truncation_side(self) -> str:
        """Where texts are cut, ``"left"`` or ``"right"``."""
        return self._settings.truncation_side

    @property
    def bos_token(self) -> str | None:
        """The token that begins texts."""
        return self._settings.roles.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of the token that begins texts."""
        return self._role_id("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends texts."""
        return self._settings.roles.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that ends texts."""
        return self._role_id("eos_token")

    @property
    def unk_token(self) -> str | None:
        """The token for what the vocabulary lacks."""
        return self._settings.roles.get("unk_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of the token for what the vocabulary lacks."""
        return self._role_id("unk_token")

    @property
    def pad_token(self) -> str | None:
        """The token that fills rows up; may be set to another token of the vocabulary."""
        return self._padding_token

    @pad_token.setter
    def pad_token(self, token: str | None) -> None:
        if token is not None and token not in self._vocabulary:
            raise ValueError(
                f"pad_token must be a token of the vocabulary, such as eos_token, got {token!r}: a new one "
                f"has no row in the model's table"
            )
        self._padding_token = token

    @property
    def pad_token_id(self) -> int | None:
        """The id of the token that fills rows up; may be set."""
        return None if self._padding_token is None else self._vocabulary.get(self._padding_token)

    @pad_token_id.setter
    def pad_token_id(self, token_id: int | None) -> None:
        token = None if token_id is None else self._backend.id_to_token(token_id)
        if token is None and token_id is not None:
            raise ValueError(f"pad_token_id must be the id of a token, got {token_id}")
        self._padding_token = token

    @property
    def padding_side(self) -> str:
        """Where rows are filled up, ``"left"`` or ``"right"``; may be set."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self._padding_side = Choice(("left", "right"))("padding_side", side)

    @property
    def model_max_length(self) -> int | None:
        """Where ``truncation=True`` cuts, if the tokenizer's files say so."""
        return self._settings.model_max_length

    def _role_id(self, role: str) -> int | None:
        token = self._settings.roles.get(role)
        return None if token is None else self._vocabulary.get(token)

    def get_vocab(self) -> dict[str, int]:
        """Every token, as the vocabulary writes it, and its id."""
        return dict(self._vocabulary)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or of each; of what is none, that of the unknown token, or None."""
        if isinstance(tokens, str):
            return self._vocabulary.get(tokens, self.unk_token_id)
        return [self._vocabulary.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The token of an id, or of each, as the vocabulary writes it; None where there is none."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self._backend.id_to_token(index(token)) for token in ids]

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, as the vocabulary writes them, without those that a template adds."""
        checked = check_text(text)
        with explained("text can't be encoded", ValueError):
            return list(self._backend.encode(checked, add_special_tokens=False).tokens)

    def __call__(self, text: str | Sequence[str], text_pair: None = None, **options: Any) -> EncodedTexts:
        """Token ids and attention masks, as from a tokenizer of ``transformers``.

        Parameters and errors are those of :func:`gpt2fast.text.encoding.encode_texts`; there is no second
        text.
        """
        from gpt2fast.text.encoding import encode_texts

        return encode_texts(self, self._backend, text, text_pair=text_pair, **options)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """A conversation as a prompt.

        Parameters and errors are those of :func:`gpt2fast.text.encoding.apply_chat_template`.
        """
        from gpt2fast.text.encoding import apply_chat_template

        return apply_chat_template(self, conversation, **options)
