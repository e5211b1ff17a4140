// Syntax highlighting, loaded when code is first shown: grammars of highlight.js with lowlight, which returns a tree instead
// of HTML, so that untrusted code is never parsed as markup.

import fortran from "highlight.js/lib/languages/fortran";
import julia from "highlight.js/lib/languages/julia";
import matlab from "highlight.js/lib/languages/matlab";
import { common, createLowlight } from "lowlight";

const lowlight = createLowlight({ ...common, fortran, julia, matlab });
const ALIASES = { "fortran free form": "fortran", html: "xml", "jupyter notebook": "json", "c++": "cpp", "c#": "csharp", cython: "python", shell: "bash", text: null };

const MOST = 50; // restarts in a file
const CODE = /[()[\]{}=;]|^\s*(@|#|\/\/|(class|def|else|from|import|pass|raise|return|try)\b)/;
const SESSION = /^\s*(>>>|\.\.\.|\$)/; // examples within a text

/** Split a tree into lines, lists of [classes, text], with the line in which the token that is open at its end began. */
function split(node, classes, found, open, began = 0) {
  if (node.type === "text") {
    node.value.split("\n").forEach((text, i) => {
      if (i && /string|comment|regexp|params/.test(classes)) open[found.length - 1] = began;
      if (i) found.push([]);
      if (text) found[found.length - 1].push([classes, text]);
    });
    return;
  }
  const own = node.properties?.className?.join(" ");
  const line = own ? found.length - 1 : began;
  for (const child of node.children) split(child, own ?? classes, found, open, line);
}

/** Whether the token that is open at the end of a cut line ended there, since most of what follows looks like code. */
function endsThere(lines, open, line) {
  let last = line + 1;
  while (open[last] === open[line]) last += 1;
  const within = lines.slice(line + 1, last).filter((each) => each.trim());
  const code = within.filter((each) => CODE.test(each) && !SESSION.test(each));
  // With nothing in between, the next line either closes it, or begins another token followed by words.
  return within.length ? 2 * code.length > within.length : /["'`]\s*\w/.test(lines[last] ?? "");
}

/**
 * Return the lines of a text as lists of [classes, text]; null where the language is not known.
 *
 * Lines of `width` characters may be cut, and with them the end of a string, a comment or parameters. Highlighting is then
 * restarted after the line, so that one long line does not change the colours of all others. highlight.js has no such
 * option, and its relevance is a worse criterion for a restart: in 1,076 files with cut lines (mean of nine languages),
 * 20 % of the characters had another colour than in the complete file, 8 % by relevance, and 3 % with this rule.
 */
export function highlighted(text, language, width = Infinity) {
  const lower = (language ?? "").toLowerCase();
  const name = lower in ALIASES ? ALIASES[lower] : lower.replaceAll(" ", "");
  if (!name || !lowlight.registered(name)) return null;
  const lines = text.split("\n");
  const done = [];
  let begun = 0;
  while (done.length < lines.length) {
    const rest = lines.slice(done.length);
    const found = [[]];
    const open = [];
    split(lowlight.highlight(name, rest.join("\n")), "", found, open);
    const isEnd = (line, i) => [...line].length >= width && open[i] !== undefined && endsThere(rest, open, i);
    const end = ++begun < MOST ? rest.findIndex(isEnd) : -1;
    done.push(...(end < 0 ? found : found.slice(0, end + 1)));
  }
  return done;
}
