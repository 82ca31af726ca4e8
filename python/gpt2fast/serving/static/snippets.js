// A run's request as commands that give the same texts elsewhere.
import { address, apiKey } from "./api.js";

const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(request) {
  const parts = [`curl ${address("v1/completions")}`, "-H 'Content-Type: application/json'"];
  if (apiKey.get()) parts.push('-H "Authorization: Bearer $OPENAI_API_KEY"');
  parts.push(`-d ${inShell(JSON.stringify(request))}\n`);
  return parts.join(" \\\n  ");
}

/** Arguments that OpenAI's client knows by name; the others are ours and go into `extra_body`. */
const KNOWN = new Set(["model", "prompt", "max_tokens", "temperature", "top_p", "seed", "n", "stop"]);

/** Python for OpenAI's client; JSON's strings, numbers, lists and objects of them read the same there. */
export function asPython(request) {
  const entries = Object.entries(request);
  const known = entries.filter(([name]) => KNOWN.has(name));
  const ours = Object.fromEntries(entries.filter(([name]) => !KNOWN.has(name)));
  const key = apiKey.get() ? "" : ', api_key="none"';
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${address("v1")}"${key})`,
    "out = client.completions.create(",
    ...known.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    `    extra_body=${JSON.stringify(ours)},`,
    ")",
    "for choice in out.choices:",
    "    print(choice.text)",
    "",
  ].join("\n");
}
