// What went wrong and what to do about it: refused, busy, no connection, a key is needed.
import { apiKey } from "./api.js";
import { element } from "./dom.js";

const TITLES = {
  refused: "The server refuses this",
  busy: "The server is busy",
  offline: "No connection to the server",
  key: "This server needs an API key",
};

export class Notice {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
  }

  clear() {
    this.place.replaceChildren();
  }

  /**
   * @param {import("./api.js").ApiError} error
   * @param {() => void} retry
   */
  show(error, retry) {
    const kind = error.kind ?? "refused";
    const parts = [element("h2", {}, TITLES[kind]), element("p", {}, this.#message(kind, error))];
    const again = element("button", { type: "button", onclick: retry }, "Try again");
    if (kind === "key") parts.push(this.#keyForm(retry));
    else if (kind !== "refused") parts.push(again);
    this.place.replaceChildren(element("div", { class: `notice ${kind}` }, ...parts));
  }

  #message(kind, error) {
    if (kind === "key" && !apiKey.get()) return "It stays in this tab, and is forgotten with it.";
    if (kind === "busy" && error.retryAfter) return `${error.message} Try again in ${error.retryAfter} s.`;
    return error.message;
  }

  #keyForm(retry) {
    const field = element("input", { type: "password", id: "api-key", required: true, autocomplete: "off" });
    const save = (event) => {
      event.preventDefault();
      apiKey.set(field.value.trim());
      retry();
    };
    const button = element("button", { type: "submit", class: "primary" }, "Use key");
    const name = element("label", { for: "api-key" }, "API key");
    return element("form", { class: "key", onsubmit: save }, name, field, button);
  }
}
