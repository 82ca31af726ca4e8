"""Routes from text to tokens and back, as in vLLM's server; lm-evaluation-harness uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gpt2fast.serving.chat import chat_template
from gpt2fast.serving.errors import bad_request
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    from gpt2fast.serving.openai import DetokenizeRequest, TokenizeRequest


async def tokenize(service: Service, body: TokenizeRequest) -> Response:
    """The tokens of a text or of a conversation."""
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", "prompt")
    if body.messages is not None:
        ids = await chat_template(service).prompt(body.messages, body.add_generation_prompt is not False)
    else:
        add_special_tokens = body.add_special_tokens is not False
        ids = await service.calls.encode(body.prompt or "", add_special_tokens=add_special_tokens)
    answer = {"count": len(ids), "max_model_len": service.calls.config.n_positions, "tokens": ids}
    answer["token_strs"] = [service.names[token] for token in ids] if body.return_token_strs else None
    return Response(orjson.dumps(answer), media_type="application/json")


async def detokenize(service: Service, body: DetokenizeRequest) -> Response:
    """The text of tokens, special ones included."""
    text = await service.calls.decode(body.tokens)
    return Response(orjson.dumps({"prompt": text}), media_type="application/json")


async def tokenizer_info(request: Request) -> Response:
    """What a client needs to know of the tokenizer, in the words of a ``tokenizer_config.json``."""
    service: Service = request.app.state.service
    config, tokenizer = service.calls.config, service.calls.tokenizer
    ends = config.eos_token_ids
    end = tokenizer.decode([ends[0]], skip_special_tokens=False) if ends else tokenizer.eos_token
    begin = tokenizer.bos_token_id
    begin_id = config.bos_token_id if begin is None else begin
    alone = tokenizer.encode("a", add_special_tokens=False)
    answer = {
        "tokenizer_class": "GPT2Tokenizer" if tokenizer.is_byte_level else "PreTrainedTokenizerFast",
        "bos_token": end if begin_id is None else tokenizer.decode([begin_id], skip_special_tokens=False),
        "eos_token": end,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
        # By what it does: a tokenizer.json says so in many ways.
        "add_bos_token": begin_id is not None and tokenizer.encode("a")[: -len(alone)] == [begin_id],
        "add_prefix_space": tokenizer.decodes_bytes
        and alone == tokenizer.encode(" a", add_special_tokens=False),
        "model_max_length": config.n_positions,
        "vocab_size": config.vocab_size,
        "chat_template": service.chat_template.source if service.chat_template is not None else None,
    }
    return Response(orjson.dumps(answer), media_type="application/json")
