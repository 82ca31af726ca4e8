// The page: what is typed and clicked becomes runs, and runs become text.
import { Alternatives } from "./alternatives.js";
import { servedModel } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { Notice } from "./notice.js";
import { OptionsForm } from "./options.js";
import { Run, promptText, randomSeed, typedPrompt } from "./run.js";
import { RunView, historyEntry } from "./run_view.js";
import { setUpTheme } from "./theme_toggle.js";

const EXAMPLES = [
  "Once upon a time",
  "The old lighthouse keeper had a secret",
  "Dear Alice,\n\n",
  "“Open the door,” said the fox,",
];

/** Runs kept in the history; older ones are forgotten. */
const REMEMBERED = 30;

const notice = new Notice(byId("notice"));
const options = new OptionsForm(byId("options"));
const prompt = byId("prompt");

/** The model's name, once known. */
let model = null;
/**
 * The exact tokens behind the prompt's text, as long as nobody edits it.
 * @type {import("./run.js").Prompt | null}
 */
let pinned = null;
/** Views of the runs, the newest first, with their entries in the history. */
let views = [];
/** The view on the page, and the one that is still being written, with the promise of its end. */
let shown = null;
let running = null;
let ending = Promise.resolve();

const stripOf = (token) => shown.stripOf(token);
const alternatives = new Alternatives(byId("result"), byId("alternatives"), stripOf, goOn);

/** Finds out what is served; where that fails, the page says so, and `retry` is what its button does. */
async function connect(retry = () => connect()) {
  try {
    const served = await servedModel();
    model = served.id;
    byId("model").textContent = model;
    byId("context").textContent = ` · ${served.max_model_len} tokens of context`;
    document.title = `${model} · gpt2fast`;
    notice.clear();
    return true;
  } catch (error) {
    notice.show(error, retry);
    return false;
  }
}

/** Starts a run of what is on the page, or of another run's prompt and options. */
async function generate(from = null) {
  if (model === null && !(await connect(() => generate(from)))) return;
  if (running) return;
  options.absolve();
  const chosen = from?.options ?? options.read();
  if (!chosen) return;
  const seed = chosen.greedy ? null : chosen.seed ?? randomSeed();
  const start = from?.prompt ?? pinned ?? typedPrompt(prompt.value);
  ending = follow(new Run(model, start, { ...chosen, seed }));
  await ending;
}

/** Shows a run until it ends. */
async function follow(run) {
  const keepSeed = (seed) => (byId("seed").value = seed);
  const view = new RunView(run, { again: () => generate(run), keepSeed });
  running = view;
  notice.clear();
  remember(view);
  show(view);
  setRunning(true);
  announce("Generating");
  await run.start(() => view.refresh());
  view.finish(run.state === "done" ? earlierRun(view) : undefined);
  if (run.state === "failed" && run.tokenCount === 0) forget(view);
  running = null;
  setRunning(false);
  if (run.state === "failed") {
    model = null; // another one may be served by now
    options.blame(run.error.param);
    notice.show(run.error, () => generate(run));
  } else {
    const { texts } = run;
    announce(texts.length === 1 ? promptText(run.prompt) + texts[0].text : `${texts.length} texts`);
  }
}

/** The run before it that was asked the same, if there is one. */
function earlierRun(view) {
  const isOne = ({ run }) => run !== view.run && run.state === "done" && run.asksAsMuchAs(view.run);
  return views.find(isOne)?.run;
}

function setRunning(isRunning) {
  byId("generate").setAttribute("aria-disabled", isRunning);
  if (!isRunning && document.activeElement === byId("stop-button")) byId("generate").focus();
  byId("stop-button").hidden = !isRunning;
}

/** Goes on from a token that the reader chose, with the run's options and seed. */
async function goOn(strip, place, token) {
  const { run } = shown;
  const byKeyboard = byId("alternatives").contains(document.activeElement);
  alternatives.hide();
  running?.run.stop();
  await ending;
  pin(run.branch(strip.textIndex, place, token));
  options.show(run.options);
  const ended = generate({ prompt: pinned, options: run.options });
  if (byKeyboard) shown.focusChosen();
  await ended;
}

/** Makes a prompt of exact tokens that of the text field. */
function pin(newPrompt) {
  pinned = newPrompt.typedIds ? newPrompt : null;
  prompt.value = promptText(newPrompt);
  const note = byId("pinned");
  note.hidden = pinned === null;
  note.textContent = pinned ? "Goes on from these exact tokens until you edit the text." : "";
}

function remember(view) {
  view.entry = historyEntry(view.run, () => {
    pin(view.run.prompt);
    options.show(view.run.options);
    show(view);
  });
  views = [view, ...views].slice(0, REMEMBERED);
  listRuns();
}

/** A run without any text isn't kept: what was on the page before comes back. */
function forget(view) {
  views = views.filter((each) => each !== view);
  listRuns();
  if (shown === view) show(views[0] ?? null);
}

function listRuns() {
  byId("runs").replaceChildren(...views.map((each) => each.entry));
  byId("history").hidden = views.length === 0;
}

function show(view) {
  alternatives.hide();
  shown = view;
  byId("empty").hidden = view !== null;
  byId("legend").hidden = view === null;
  byId("result").replaceChildren(...(view ? [view.element] : []));
  for (const each of views) each.entry.firstChild.setAttribute("aria-current", each === view);
}

function setUpKeys() {
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  if (isMac) byId("generate-keys").textContent = "⌘ ↵";
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      generate();
    } else if (event.key === "Escape") {
      alternatives.hide();
      running?.run.stop();
    }
  });
}

function setUpFolding() {
  const wide = matchMedia("(min-width: 60rem)");
  const fold = () => {
    for (const each of document.querySelectorAll("main > details")) each.open = wide.matches;
  };
  wide.addEventListener("change", fold);
  fold();
}

function setUpExamples() {
  for (const text of EXAMPLES) {
    const use = () => {
      pin(typedPrompt(text));
      generate();
    };
    const button = element("button", { type: "button", onclick: use }, text.trim());
    byId("examples").append(element("li", {}, button));
  }
}

byId("generate").addEventListener("click", () => generate());
byId("stop-button").addEventListener("click", () => running?.run.stop());
byId("options").addEventListener("submit", (event) => event.preventDefault());
prompt.addEventListener("input", () => pinned && pin(typedPrompt(prompt.value)));
setUpTheme(byId("theme"));
setUpKeys();
setUpFolding();
setUpExamples();
connect();
