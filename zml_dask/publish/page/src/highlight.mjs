// Colours for code, loaded when code is first looked at: highlight.js' grammars by way of lowlight,
// which gives a tree and not HTML, so that strangers' code is never parsed as markup.

import fortran from "highlight.js/lib/languages/fortran";
import julia from "highlight.js/lib/languages/julia";
import matlab from "highlight.js/lib/languages/matlab";
import { common, createLowlight } from "lowlight";

const lowlight = createLowlight({ ...common, fortran, julia, matlab });
const ALIASES = { "fortran free form": "fortran", html: "xml", "jupyter notebook": "json", "c++": "cpp", "c#": "csharp", cython: "python", shell: "bash", text: null };

/** Split a tree into lines; each is a list of [classes, text]. */
function split(node, classes, found) {
  if (node.type === "text") {
    node.value.split("\n").forEach((text, i) => {
      if (i) found.push([]);
      if (text) found[found.length - 1].push([classes, text]);
    });
    return;
  }
  const own = node.properties?.className?.join(" ") ?? classes;
  for (const child of node.children) split(child, own, found);
}

/** Return the lines of a text as lists of [classes, text]; null where the language is not known. */
export function highlighted(text, language) {
  const lower = (language ?? "").toLowerCase();
  const name = lower in ALIASES ? ALIASES[lower] : lower.replaceAll(" ", "");
  if (!name || !lowlight.registered(name)) return null;
  const found = [[]];
  split(lowlight.highlight(name, text), "", found);
  return found;
}
