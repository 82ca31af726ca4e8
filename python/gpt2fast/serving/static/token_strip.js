// The tokens of a text on the page: coloured by probability, walked through with the arrow keys.
import { element } from "./dom.js";
import { Grouper } from "./tokens.js";

/** Lower limits of the classes of probability, the likeliest first; the legend shows the same. */
const LIMITS = [0.5, 0.2, 0.05, 0.01, 0];

const probabilityOf = (group) => Math.exp(group.tokens.reduce((sum, token) => sum + token.logprob, 0));

/** 0 for likely, 4 for what hardly anyone would have guessed. */
const classOf = (probability) => LIMITS.findIndex((limit) => probability >= limit);

/** A probability for people: two digits, as percent. */
export function percent(probability) {
  const value = probability * 100;
  if (value >= 99.95) return "100%";
  if (value >= 9.95) return `${value.toFixed(0)}%`;
  if (value >= 0.995) return `${value.toFixed(1)}%`;
  return value >= 0.01 ? `${value.toFixed(2)}%` : "<0.01%";
}

const NAMES = { "\n": "line break", "\n\n": "two line breaks", " ": "space", "\t": "tab" };

export class TokenStrip {
  /** The groups by their elements. */
  groups = new Map();
  #grouper = new Grouper();
  #known = [];

  /**
   * @param {string} label what it is, for screen readers
   * @param {number} textIndex which text of the run
   * @param {number} offset the place of its first token, counted from the first token kept in the prompt
   */
  constructor(label, textIndex, offset) {
    Object.assign(this, { textIndex, offset });
    const role = { role: "listbox", "aria-label": label, "aria-orientation": "horizontal" };
    const keys = "Arrow keys go from token to token, Enter to what else it could have been.";
    this.element = element("span", { class: "tokens", ...role, "aria-description": keys });
    this.element.addEventListener("keydown", (event) => this.#walk(event));
  }

  push(tokens) {
    this.#known.push(...tokens);
    this.#append(tokens.flatMap((token) => this.#grouper.push(token)));
  }

  /** No more tokens come. What goes beyond `length` characters was taken back, as a stop string is. */
  finish(length) {
    this.#append(this.#grouper.flush());
    let start = 0;
    for (const [shown, group] of this.groups) {
      if (group.tokens.at(-1).special) continue;
      const inside = Math.max(0, length - start);
      start += group.text.length;
      if (start <= length) continue;
      const parts = [group.text.slice(0, inside), element("s", {}, group.text.slice(inside))];
      shown.replaceChildren(element("span", { class: "tint" }, ...parts));
    }
  }

  #append(groups) {
    for (const group of groups) {
      const shown = this.#show(group);
      this.groups.set(shown, group);
      this.element.append(shown);
    }
  }

  #show(group) {
    const likely = probabilityOf(group);
    const classes = ["token", `p${classOf(likely)}`];
    if (group.tokens.some((token) => token.chosen)) classes.push("chosen");
    const special = group.tokens[0].special;
    if (special) classes.push("special");
    if (group.text.startsWith("\n")) classes.push("break");
    const text = special ? "end of text" : group.text;
    const name = `${NAMES[text] ?? text.trim()}, ${percent(likely)}`;
    const focus = this.groups.size === 0 ? 0 : -1;
    const attributes = { class: classes.join(" "), role: "option", tabindex: focus, "aria-label": name };
    const gap = /^ \S/.test(text) ? " " : ""; // the space before a word stays plain, so that words stay apart
    return element("span", attributes, gap, element("span", { class: "tint" }, text.slice(gap.length)));
  }

  /** Makes a token the one that Tab comes back to. */
  enter(shown) {
    this.element.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    shown.setAttribute("tabindex", "0");
  }

  #walk(event) {
    const now = document.activeElement;
    const steps = {
      ArrowRight: now.nextElementSibling,
      ArrowLeft: now.previousElementSibling,
      Home: this.element.firstElementChild,
      End: this.element.lastElementChild,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    steps[event.key]?.focus();
  }
}
