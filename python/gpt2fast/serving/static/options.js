// The form of options: what its fields hold, and what they mean.
import { byId } from "./dom.js";
import { randomSeed } from "./run.js";

/** The options' fields by the names that the server's errors give them. */
const FIELDS = {
  temperature: "temperature",
  top_p: "top-p",
  top_k: "top-k",
  repetition_penalty: "repetition-penalty",
  max_tokens: "max-tokens",
  n: "texts",
  seed: "seed",
  stop: "stop",
};

const MEANT = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };
const WRITTEN = { "\n": "\\n", "\t": "\\t", "\\": "\\\\" };
const unescape = (line) => line.replace(/\\[nt\\]/g, (pair) => MEANT[pair]);
const escape = (text) => text.replace(/[\n\t\\]/g, (each) => WRITTEN[each]);

export class OptionsForm {
  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.form = form;
    for (const slider of this.#sliders()) {
      const number = byId(slider.dataset.of);
      slider.addEventListener("input", () => (number.value = slider.value));
      number.addEventListener("input", () => (slider.value = number.value));
    }
    byId("greedy").addEventListener("change", () => this.#adapt());
    byId("dice").addEventListener("click", () => (byId("seed").value = randomSeed()));
    form.addEventListener("input", (event) => event.target.removeAttribute("aria-invalid"));
    this.#adapt();
  }

  /** The options; null where a field holds nothing that would do, which the browser then shows. */
  read() {
    if (!this.form.checkValidity()) {
      this.form.closest("details").open = true;
      this.form.reportValidity();
      return null;
    }
    const number = (id) => byId(id).valueAsNumber;
    const greedy = byId("greedy").checked;
    const seed = byId("seed").value.trim();
    return {
      greedy,
      temperature: number("temperature"),
      topP: number("top-p"),
      topK: number("top-k"),
      repetitionPenalty: number("repetition-penalty"),
      maxTokens: number("max-tokens"),
      texts: greedy ? 1 : number("texts"),
      seed: greedy ? null : seed === "" ? null : Number(seed),
      stop: byId("stop").value.split("\n").filter((line) => line !== "").map(unescape),
    };
  }

  /** Shows the options of a run. */
  show(options) {
    byId("greedy").checked = options.greedy;
    const values = {
      temperature: options.temperature,
      "top-p": options.topP,
      "top-k": options.topK,
      "repetition-penalty": options.repetitionPenalty,
      "max-tokens": options.maxTokens,
      texts: options.texts,
      stop: options.stop.map(escape).join("\n"),
    };
    for (const [id, value] of Object.entries(values)) byId(id).value = value;
    for (const slider of this.#sliders()) slider.value = byId(slider.dataset.of).value;
    this.#adapt();
  }

  /** Marks the field that the server found fault with. */
  blame(param) {
    byId(FIELDS[param])?.setAttribute("aria-invalid", "true");
  }

  /** Takes the marks away. */
  absolve() {
    for (const field of this.form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  }

  /** With the likeliest token taken always, nothing is drawn, and a prompt has one text. */
  #adapt() {
    const greedy = byId("greedy").checked;
    const parts = this.form.querySelectorAll("[data-drawn] input, [data-drawn] button");
    for (const part of parts) part.disabled = greedy;
  }

  #sliders() {
    return this.form.querySelectorAll("input[type=range]");
  }
}
