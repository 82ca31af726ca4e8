"""The paths of the service, and what each is for."""

from __future__ import annotations

#: In the order of the documentation.
ROUTES = {
    "/v1/completions": "Continue texts",
    "/v1/chat/completions": "Go on with a conversation, where the model has a chat template",
    "/v1/embeddings": "Make vectors of texts",
    "/v1/score": "How likely texts are, token by token",
    "/v1/rank": "Order choices by their likelihood after a prompt",
    "/v1/models": "The models: one",
    "/v1/models/{model}": "A model",
    "/tokenize": "Text to token ids",
    "/detokenize": "Token ids to text",
    "/tokenizer_info": "The tokenizer",
    "/health": "The process is alive; needs no key",
    "/ready": "The model answers",
    "/metrics": "Numbers for Prometheus",
    "/openapi.json": "This document",
    "/docs": "This document for people",
    "/": "A page to try the model",
}
