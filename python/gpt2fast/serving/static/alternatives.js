// What the model could have said instead: shown for the token under the pointer or with the focus.
import { element } from "./dom.js";
import { percent } from "./token_strip.js";
import { textOf } from "./tokens.js";

/** How long the pointer may be on its way from a token to the panel, in milliseconds. */
const GRACE = 200;

const MARKS = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };

/** A token's text with spaces and line breaks made visible; its bytes where they are no whole characters. */
function label(token) {
  if (token.special) return [element("span", { class: "mark" }, "end of text")];
  const text = textOf([token]);
  if (text === "") return [element("span", { class: "mark" }, `token ${token.id}`)];
  if (text.includes("\ufffd")) {
    const bytes = [...token.bytes].map((byte) => byte.toString(16).toUpperCase().padStart(2, "0"));
    return [element("span", { class: "mark" }, `byte${bytes.length > 1 ? "s" : ""} ${bytes.join(" ")}`)];
  }
  const parts = text.match(/[ \n\t\r\u00a0]|[^ \n\t\r\u00a0]+/g) ?? [];
  return parts.map((part) => (part in MARKS ? element("span", { class: "mark" }, MARKS[part]) : part));
}

function row(token, isChosen, choose) {
  const probability = Math.exp(token.logprob);
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", probability);
  const name = element("span", { class: "name" }, ...label(token));
  const content = [bar, name, element("span", {}, percent(probability))];
  const current = { class: "alternative current", "aria-current": "true" };
  if (isChosen) return element("li", {}, element("div", current, ...content));
  const attributes = { type: "button", class: "alternative", title: "Go on from here with this" };
  return element("li", {}, element("button", { ...attributes, onclick: choose }, ...content));
}

export class Alternatives {
  /** The token whose alternatives are shown. */
  #shown = null;
  /** The token with the focus, whose alternatives come back when the pointer leaves. */
  #held = null;
  #timer = 0;
  /** Where the pointer was pressed last: text that appears under a pointer at rest isn't pointed at. */
  #pressed = "";

  /**
   * @param {HTMLElement} root where tokens are
   * @param {HTMLElement} panel
   * @param {(shown: HTMLElement) => import("./token_strip.js").TokenStrip} stripOf the strip of a token
   * @param {(strip: object, place: number, token: object) => void} choose goes on from a token
   */
  constructor(root, panel, stripOf, choose) {
    Object.assign(this, { panel, stripOf, choose });
    root.addEventListener("pointerover", (event) => this.#hover(event));
    root.addEventListener("pointerout", (event) => event.target.closest(".token") && this.#leaveSoon());
    root.addEventListener("click", (event) => event.target.closest(".token")?.focus());
    root.addEventListener("focusin", (event) => this.#hold(event.target.closest(".token")));
    root.addEventListener("keydown", (event) => this.#enter(event));
    panel.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    panel.addEventListener("pointerleave", () => this.#leaveSoon());
    panel.addEventListener("pointerdown", (event) => event.preventDefault()); // the token keeps the focus
    panel.addEventListener("keydown", (event) => this.#walk(event));
    for (const each of [root, panel]) each.addEventListener("focusout", (event) => this.#release(event));
    addEventListener("pointerdown", (event) => this.#press(event));
    addEventListener("resize", () => this.#place());
  }

  hide() {
    clearTimeout(this.#timer);
    this.#shown?.classList.remove("open");
    this.#shown = this.#held = null;
    this.panel.hidden = true;
  }

  #press(event) {
    this.#pressed = `${event.clientX} ${event.clientY}`;
    if (!this.panel.contains(event.target) && !event.target.closest(".token")) this.hide();
  }

  #hover(event) {
    const token = event.target.closest(".token");
    if (!token || event.pointerType !== "mouse" || event.buttons !== 0) return;
    if (this.#pressed === `${event.clientX} ${event.clientY}`) return;
    clearTimeout(this.#timer);
    this.#show(token);
  }

  #leaveSoon() {
    clearTimeout(this.#timer);
    if (this.panel.contains(document.activeElement)) return;
    this.#timer = setTimeout(() => (this.#held ? this.#show(this.#held) : this.hide()), GRACE);
  }

  #hold(token) {
    if (!token) return;
    this.stripOf(token).enter(token);
    this.#held = token;
    clearTimeout(this.#timer);
    this.#show(token);
  }

  #release(event) {
    const to = event.relatedTarget;
    if (this.panel.contains(to) || to?.closest(".token")) return;
    this.hide();
  }

  #show(token) {
    if (this.#shown === token) return;
    this.#shown?.classList.remove("open");
    this.#shown = token;
    token.classList.add("open");
    const strip = this.stripOf(token);
    const group = strip.groups.get(token);
    const places = group.tokens.map((each, at) => {
      const place = strip.offset + group.first + at;
      return this.#placeOf(each, (alternative) => this.choose(strip, place, alternative));
    });
    const several = group.tokens.length > 1;
    const title = several ? [`${group.tokens.length} tokens make this character`] : [];
    this.panel.replaceChildren(...title.map((text) => element("p", { class: "title" }, text)), ...places);
    this.panel.hidden = false;
    this.#place();
  }

  #placeOf(token, choose) {
    const rows = token.top.map((each) => row(each, each.id === token.id, () => choose(each)));
    if (token.top.every((each) => each.id !== token.id)) {
      rows.push(element("li", { class: "gap", "aria-hidden": "true" }), row(token, true));
    }
    return element("ol", { role: "list", "aria-label": "Likeliest tokens here" }, ...rows);
  }

  /** Below its token, or above where there is more room; on small touch screens it is at the foot. */
  #place() {
    if (this.panel.hidden) return;
    if (getComputedStyle(this.panel).position === "fixed") {
      const top = this.panel.getBoundingClientRect().top - 16;
      const covered = this.#shown.getBoundingClientRect().bottom - top;
      if (covered > 0) scrollBy(0, covered);
      return;
    }
    const line = this.#shown.getClientRects()[0] ?? this.#shown.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.panel;
    const below = line.bottom + height + 12 <= innerHeight || line.top < height + 12;
    const left = Math.max(8, Math.min(line.left - 8, document.documentElement.clientWidth - width - 8));
    const top = below ? line.bottom + 6 : line.top - height - 6;
    this.panel.style.setProperty("--left", `${left + scrollX}px`);
    this.panel.style.setProperty("--top", `${top + scrollY}px`);
  }

  #enter(event) {
    if (!event.target.closest(".token") || !["Enter", " ", "ArrowDown"].includes(event.key)) return;
    if (event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.panel.querySelector("button")?.focus();
  }

  #walk(event) {
    const buttons = [...this.panel.querySelectorAll("button")];
    const now = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      buttons[Math.max(0, Math.min(to, buttons.length - 1))]?.focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.#shown.focus();
    }
  }
}
