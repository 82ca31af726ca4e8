// Tokens as the service names them, their bytes, and the characters that several of them make together.

const encoder = new TextEncoder();

/**
 * One token of a text.
 * @typedef {object} Token
 * @property {number} id
 * @property {Uint8Array} bytes
 * @property {number} logprob natural logarithm of the model's probability
 * @property {boolean} special such as the end of a text: no part of what is read
 * @property {Token[]} top the likeliest tokens at its place, the likeliest first; empty for one of these
 * @property {boolean} [chosen] the reader chose it in place of the model
 */

/** Bytes of a token's name: text, or `bytes:\xNN...` where they are no characters; `token_id:N` has none. */
export function bytesOf(name) {
  if (/^token_id:\d+$/.test(name)) return new Uint8Array();
  const escaped = /^bytes:((?:\\x[0-9a-f]{2})+)$/i.exec(name);
  if (!escaped) return encoder.encode(name);
  return Uint8Array.from(escaped[1].slice(2).split("\\x"), (pair) => Number.parseInt(pair, 16));
}

const isSpecial = (name) => /^<\|.+\|>$/.test(name);

function token(name, id, logprob, top) {
  return { id, bytes: bytesOf(name), logprob, special: isSpecial(name), top };
}

/** The tokens that a chunk of a stream adds to its text; the last chunk may have none. */
export function tokensOf(choice) {
  if (!choice.logprobs) return [];
  const { tokens, token_logprobs: logprobs, top_logprobs: tops, top_token_ids: ids } = choice.logprobs;
  return tokens.map((name, at) => {
    const top = Object.entries(tops[at]).map(([each, logprob]) => token(each, ids[at][each], logprob, []));
    return token(name, choice.token_ids[at], logprobs[at], top.sort((a, b) => b.logprob - a.logprob));
  });
}

/** How many bytes the character that begins with `lead` has; 0 where none can begin with it. */
function characterLength(lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return 3;
  return lead < 0xf5 ? 4 : 0;
}

/** How many bytes at the end begin a character that isn't complete. */
function openBytes(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc0) return characterLength(byte) > back ? back : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

const joined = (tokens) => Uint8Array.from(tokens.flatMap((each) => [...each.bytes]));

/** The text of tokens on their own; bytes that are no characters become U+FFFD. */
export const textOf = (tokens) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(joined(tokens));

/**
 * Puts tokens that share a character into one group, so that each group has whole characters.
 * A group is `{ tokens, first, text }`: `first` is the place of its first token in the text.
 */
export class Grouper {
  #pending = [];
  #place = 0;

  /** Adds a token; returns the groups that are complete by it. */
  push(added) {
    const closed = this.#continues(added) ? [] : this.flush();
    this.#pending.push(added);
    if (added.special || openBytes(joined(this.#pending)) === 0) closed.push(...this.flush());
    return closed;
  }

  /** The group that waits for the rest of a character, if any: there is none to come. */
  flush() {
    if (this.#pending.length === 0) return [];
    const tokens = this.#pending;
    const group = { tokens, first: this.#place, text: textOf(tokens) };
    this.#place += tokens.length;
    this.#pending = [];
    return [group];
  }

  #continues({ bytes, special }) {
    return !special && bytes.length > 0 && (bytes[0] & 0xc0) === 0x80;
  }
}
