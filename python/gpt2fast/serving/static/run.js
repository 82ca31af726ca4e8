// One run: a prompt with options, the texts that came of it, and how fast.
import { complete } from "./api.js";
import { textOf, tokensOf } from "./tokens.js";

/** How many of the likeliest tokens are asked for at each place; fewer where the server allows no more. */
const ALTERNATIVES = [8, 5, 0];

/** Seeds that a JSON number of this language holds exactly. */
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/**
 * What a run starts from: text as it was typed, or, after an alternative was chosen, that text's exact ids
 * and the tokens kept or chosen since.
 * @typedef {object} Prompt
 * @property {string} typed
 * @property {number[] | null} typedIds ids of `typed`; null: the server makes them of the text
 * @property {import("./tokens.js").Token[]} kept
 */

/** @returns {Prompt} */
export const typedPrompt = (typed) => ({ typed, typedIds: null, kept: [] });

/** The prompt as text. */
export const promptText = ({ typed, kept }) => typed + textOf(kept);

/** The prompt as the service takes it. */
function sent({ typed, typedIds, kept }) {
  return typedIds ? [...typedIds, ...kept.map((token) => token.id)] : typed;
}

/** The request that gives a run's texts; what shows their probabilities as they come is left to the page. */
export function requestOf(model, prompt, options) {
  const { temperature, topP: top_p, topK: top_k, seed } = options;
  return {
    model,
    prompt: sent(prompt),
    max_tokens: options.maxTokens,
    ...(options.greedy ? { temperature: 0 } : { temperature, top_p, top_k, seed }),
    repetition_penalty: options.repetitionPenalty,
    ...(options.texts > 1 && { n: options.texts }),
    ...(options.stop.length > 0 && { stop: options.stop }),
  };
}

/** One of the texts of a run. */
class Text {
  tokens = [];
  text = "";
  finishReason = null;

  /** Adds what a chunk of the stream holds. */
  add(choice) {
    this.tokens.push(...tokensOf(choice));
    this.text += choice.text;
    this.finishReason = choice.finish_reason ?? this.finishReason;
  }
}

export class Run {
  /** "running", "done", "stopped" or "failed". */
  state = "running";
  /** Why it failed. @type {import("./api.js").ApiError | null} */
  error = null;
  startedAt = new Date();
  firstTokenMs = null;
  durationMs = 0;
  /** Ids of the prompt, as the server has them. */
  promptIds = [];
  #abort = new AbortController();

  /**
   * @param {string} model
   * @param {Prompt} prompt
   * @param {object} options as `OptionsForm` gives them; `seed` is set
   */
  constructor(model, prompt, options) {
    Object.assign(this, { model, prompt, options });
    this.request = requestOf(model, prompt, options);
    this.texts = Array.from({ length: options.texts }, () => new Text());
  }

  get tokenCount() {
    return this.texts.reduce((sum, text) => sum + text.tokens.length, 0);
  }

  get tokensPerSecond() {
    return this.tokenCount / (this.durationMs / 1000);
  }

  /** Generates; `changed` is called after each chunk. Ends without throwing: see `state` and `error`. */
  async start(changed) {
    const began = performance.now();
    try {
      for await (const chunk of this.#chunks()) {
        for (const choice of chunk.choices) this.#take(choice, performance.now() - began);
        changed();
      }
      this.state = "done";
    } catch (error) {
      if (this.#abort.signal.aborted) {
        this.state = "stopped";
      } else {
        this.state = "failed";
        this.error = error;
      }
    }
  }

  /** Ends it; the server drops the texts too. */
  stop() {
    this.#abort.abort();
  }

  async *#chunks() {
    for (const logprobs of ALTERNATIVES) {
      try {
        yield* complete({ ...this.request, logprobs, return_token_ids: true }, this.#abort.signal);
        return;
      } catch (error) {
        if (error.param !== "logprobs" || logprobs === 0) throw error;
      }
    }
  }

  #take(choice, elapsed) {
    if (choice.prompt_token_ids) this.promptIds = choice.prompt_token_ids;
    this.texts[choice.index].add(choice);
    if (this.tokenCount === 0) return;
    this.firstTokenMs ??= elapsed;
    this.durationMs = elapsed;
  }

  /**
   * The prompt that goes on with `alternative` in place of the token at `place`.
   * @param {number} textIndex
   * @param {number} place counted from the first token that was kept in the prompt
   * @returns {Prompt}
   */
  branch(textIndex, place, alternative) {
    const { typed, kept } = this.prompt;
    const tokens = [...kept, ...this.texts[textIndex].tokens];
    const chosen = { ...alternative, top: tokens[place].top, chosen: true };
    const typedIds = this.promptIds.slice(0, this.promptIds.length - kept.length);
    return { typed, typedIds, kept: [...tokens.slice(0, place), chosen] };
  }

  /** Whether another run was asked the same: its texts must be the same then. */
  asksAsMuchAs(other) {
    return JSON.stringify(this.request) === JSON.stringify(other.request);
  }

  /** Whether all texts are the same, token for token. */
  saysTheSameAs(other) {
    const ids = (run) => run.texts.map((text) => text.tokens.map((token) => token.id).join());
    return ids(this).join(";") === ids(other).join(";");
  }
}
