// Requests to the server that this page came from, and its errors as one type.
import { events } from "./sse.js";

const KEY = "gpt2fast.key";

/** Where a path of the service is; the page may live under a prefix of a reverse proxy. */
export function address(path) {
  const url = new URL(path, document.baseURI);
  url.username = url.password = ""; // what the page was opened with; the browser sends it itself
  return url.href;
}

/** The API key given in this tab; it lives as long as the tab. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
};

/**
 * Why a request failed.
 * `kind` is "refused" (the server says why), "key" (401), "busy" (429, 503) or "offline" (no answer,
 * or not to its end).
 */
export class ApiError extends Error {
  constructor(kind, message, { param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { kind, param, retryAfter });
  }
}

const KINDS = { 401: "key", 429: "busy", 503: "busy" };

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const message = error.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ApiError(KINDS[response.status] ?? "refused", message, {
    param: error.param,
    retryAfter: Number.isFinite(wait) ? wait : null,
  });
}

/** Lets an intended abort through; everything else that a fetch throws is a connection that failed. */
function lost(error, signal) {
  if (signal?.aborted || error instanceof ApiError) return error;
  return new ApiError("offline", "The server doesn't answer.");
}

async function send(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  let response;
  try {
    response = await fetch(address(path), { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw lost(error, signal);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** The model that is served: `{ id, max_model_len }`. */
export async function servedModel() {
  const { data } = await (await send("v1/models")).json();
  return data[0];
}

/**
 * Yields the chunks of a streamed completion.
 * @param {object} body the request, without `stream`
 * @param {AbortSignal} signal ends it, on the server too
 */
export async function* complete(body, signal) {
  const response = await send("v1/completions", { body: { ...body, stream: true }, signal });
  try {
    for await (const data of events(response)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError("refused", chunk.error.message, chunk.error);
      yield chunk;
    }
  } catch (error) {
    throw lost(error, signal);
  }
  throw new ApiError("offline", "The connection ended before the text did.");
}
