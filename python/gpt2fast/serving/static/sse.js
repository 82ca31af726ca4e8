// Server-sent events of a response, in the part of the format that completions use: `data:` and blank lines.

/**
 * Yields the data of each event as it arrives.
 * @param {Response} response
 * @returns {AsyncGenerator<string>}
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return; // an event without its blank line is incomplete, and dropped, as the format has it
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((each) => each.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) {
        data.push(line.slice(5).replace(/^ /, ""));
      } else if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
