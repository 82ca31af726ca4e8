// A run on the page: its texts side by side, how it went, and what can be done with it.
import { copy, element } from "./dom.js";
import { promptText } from "./run.js";
import { asCurl, asPython } from "./snippets.js";
import { TokenStrip } from "./token_strip.js";
import { Grouper, textOf } from "./tokens.js";

const STATES = { running: "Generating", done: "Done", stopped: "Stopped", failed: "Interrupted" };

/** Why a text ended; null while it hasn't. */
function reasonOf({ finishReason, tokens }) {
  if (finishReason === "length") return "reached max tokens";
  if (finishReason === "stop") return tokens.at(-1)?.special ? "end of text" : "stop string";
  return finishReason;
}

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const clock = (date) => date.toLocaleTimeString([], TIME);
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A number for people: as many digits as say something. */
const rounded = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));

/** A button that copies what `content` returns, and says so for a moment. */
function copyButton(name, content) {
  const button = element("button", { type: "button", class: "quiet" }, name);
  button.addEventListener("click", async () => {
    await copy(content());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

export class RunView {
  /** The strip that a token's element is in. */
  #strips = new Map();
  /** Tokens kept in the prompt that the strips of texts begin with. */
  #inStrip = [];
  /** How many tokens of each text are on the page. */
  #shown;
  #frame = 0;

  /**
   * @param {import("./run.js").Run} run
   * @param {{ again: () => void, keepSeed: (seed: number) => void }} actions
   */
  constructor(run, actions) {
    Object.assign(this, { run, actions });
    this.#shown = run.texts.map(() => 0);
    this.status = element("p", { class: "stats" });
    this.same = element("p", { class: "same", hidden: true });
    this.element = element("article", { class: "run", "aria-label": "Result" });
    this.element.append(element("header", {}, this.status, this.same), ...this.#content(), this.#buttons());
    this.#update();
  }

  stripOf(token) {
    return this.#strips.get(token.closest(".tokens"));
  }

  /** Gives the focus to the token that the reader chose last. */
  focusChosen() {
    [...this.element.querySelectorAll(".token.chosen")].at(-1)?.focus();
  }

  /** Shows what has come since, with the next frame. */
  refresh() {
    this.#frame ||= requestAnimationFrame(() => this.#update());
  }

  /** The run has ended; `earlier` is one that was asked the same, if there is one. */
  finish(earlier) {
    this.#update();
    const kept = textOf(this.#inStrip.filter((token) => !token.special)).length;
    for (const [index, text] of this.run.texts.entries()) {
      this.strips[index].finish(text.finishReason === "stop" ? kept + text.text.length : Infinity);
    }
    if (earlier) {
      const same = this.run.saysTheSameAs(earlier);
      const what = this.run.texts.length > 1 ? "texts" : "text";
      this.same.textContent = `${same ? "Same" : "Other"} ${what} as at ${clock(earlier.startedAt)}`;
      this.same.classList.toggle("differs", !same);
      this.same.hidden = false;
    }
  }

  /** The text of one result with its prompt, as it is copied. */
  #wholeText(index) {
    return promptText(this.run.prompt) + this.run.texts[index].text;
  }

  #strip(label, textIndex, offset) {
    const strip = new TokenStrip(label, textIndex, offset);
    this.#strips.set(strip.element, strip);
    return strip;
  }

  /** One text goes on in its prompt's line; several stand under it, side by side. */
  #content() {
    const { prompt, texts } = this.run;
    const typed = element("span", { class: "typed" }, prompt.typed);
    if (texts.length === 1) {
      this.#inStrip = prompt.kept;
      this.strips = [this.#strip("Text, token by token", 0, 0)];
      this.strips[0].push(prompt.kept);
      const text = element("p", { class: "text" }, typed, this.strips[0].element);
      return [element("div", { class: "panel sheet" }, text)];
    }
    const kept = this.#strip("Prompt since the typed text", 0, 0);
    const open = this.#openTail(prompt.kept);
    const closed = prompt.kept.length - open.length;
    this.#inStrip = open;
    kept.push(prompt.kept.slice(0, closed));
    this.strips = texts.map((_, index) => this.#strip(`Text ${index + 1}, token by token`, index, closed));
    for (const strip of this.strips) strip.push(open);
    this.feet = texts.map(() => element("span", {}));
    const cards = this.strips.map((strip, index) => {
      const foot = element("footer", {}, this.feet[index], copyButton("Copy", () => this.#wholeText(index)));
      const text = element("p", { class: "text" }, strip.element);
      return element("section", { class: "panel sheet" }, text, foot);
    });
    const start = element("p", { class: "text prompt" }, typed, ...(closed > 0 ? [kept.element] : []));
    return [start, element("div", { class: `cards of-${texts.length}` }, ...cards)];
  }

  /** The tokens at the end that begin a character which the texts complete. */
  #openTail(tokens) {
    const grouper = new Grouper();
    for (const token of tokens) grouper.push(token);
    return grouper.flush().flatMap((group) => group.tokens);
  }

  #buttons() {
    const title = "The same prompt, options and seed: the same text";
    const attributes = { type: "button", class: "quiet", title, onclick: this.actions.again };
    const buttons = [element("button", attributes, "Run again")];
    if (this.run.texts.length === 1) buttons.push(copyButton("Copy text", () => this.#wholeText(0)));
    buttons.push(copyButton("Copy as curl", () => asCurl(this.run.request)));
    buttons.push(copyButton("Copy as Python", () => asPython(this.run.request)));
    return element("div", { class: "actions" }, ...buttons);
  }

  #update() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    for (const [index, text] of this.run.texts.entries()) {
      this.strips[index].push(text.tokens.slice(this.#shown[index]));
      this.#shown[index] = text.tokens.length;
    }
    this.element.dataset.state = this.run.state;
    this.status.replaceChildren(...this.#facts().flatMap((fact, at) => (at === 0 ? [fact] : [" · ", fact])));
    this.feet?.forEach((foot, index) => (foot.textContent = this.#footOf(index)));
  }

  #facts() {
    const { run } = this;
    const facts = [element("strong", {}, STATES[run.state])];
    const reason = reasonOf(run.texts[0]);
    if (run.texts.length === 1 && reason) facts.push(reason);
    facts.push(count(run.tokenCount, "token"));
    if (run.tokenCount > 1) facts.push(`${rounded(run.tokensPerSecond)} tokens/s`);
    if (run.firstTokenMs !== null) facts.push(`first token after ${rounded(run.firstTokenMs)} ms`);
    if (run.options.seed !== null) facts.push(this.#seed(run.options.seed));
    return facts;
  }

  #seed(seed) {
    const keep = () => this.actions.keepSeed(seed);
    const title = "Use this seed for the next runs";
    return element("button", { type: "button", class: "seed", title, onclick: keep }, `seed ${seed}`);
  }

  #footOf(index) {
    const text = this.run.texts[index];
    const parts = [count(text.tokens.length, "token")];
    if (this.run.options.seed !== null) parts.unshift(`seed ${this.run.options.seed + index}`);
    return [...parts, reasonOf(text) ?? []].flat().join(" · ");
  }
}

/** A run as an entry of the history. */
export function historyEntry(run, show) {
  const text = promptText(run.prompt).replace(/\s+/g, " ").trim();
  const isBranch = run.prompt.kept.length > 0;
  const end = text.slice(-32).replace(/^\S*\s/, ""); // which is where branches of a text differ
  const excerpt = isBranch ? `↳ … ${end}` : text.slice(0, 80);
  const name = element("span", { class: "excerpt" }, excerpt || "(empty prompt)");
  const facts = [clock(run.startedAt), run.options.greedy ? "greedy" : `seed ${run.options.seed}`];
  if (run.options.texts > 1) facts.push(count(run.options.texts, "text"));
  const meta = element("span", { class: "meta" }, facts.join(" · "));
  return element("li", {}, element("button", { type: "button", onclick: show }, name, meta));
}
