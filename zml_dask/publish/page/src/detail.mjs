// A file: its images beside its code, its metadata, and the files of its record.

import { $, character, draw, element, errorIn, lines, number, save, visible } from "./draw.mjs";

const MOST = 60; // images that are shown of a file; few files have more
const FILE = ["path", "name", "record_id", "language", "size", "encoding", "n_lines", "n_cut", "first_image", "n_images", "sha1_git"];
const RECORD = ["title", "doi", "license", "publication_date", "repository", "creators"];

let code = { name: "", text: "" };

function link(href, text) {
  return element("a", { href, rel: "noreferrer noopener" }, text);
}

function facts(file, record, image) {
  const isDoi = /^10\.\d{4,9}\/[-._;()/:A-Za-z0-9]+$/.test(record.doi ?? "");
  const swhid = /^[0-9a-f]{40}$/.test(file.sha1_git ?? "") && `swh:1:cnt:${file.sha1_git}`;
  const isWeb = /^https?:\/\/[\w.-]+\/[\w./~+-]*$/.test(record.repository ?? "");
  const segment = image - file.first_image;
  const bdi = (text) => element("bdi", {}, visible(text));
  const rows = [
    ["record", element("a", { href: `#record=${file.record_id}` }, `all images of ${file.record_id}`)],
    ["DOI", isDoi ? link(`https://doi.org/${record.doi}`, record.doi) : bdi(record.doi ?? "none")],
    ["licence", bdi(record.license ?? "none")],
    ["by", bdi((record.creators ?? []).slice(0, 3).join("; ") || "unknown")],
    ["repository", isWeb ? link(record.repository, visible(record.repository)) : bdi(record.repository ?? "none")],
    ["language", bdi(file.language ?? "not named")],
    ["file", bdi(`${number.format(file.n_lines)} lines, ${number.format(file.size)} bytes, ${file.encoding}`)],
    ["image", bdi(`${segment + 1} of ${number.format(file.n_images)}, row ${number.format(image)} of the array`)],
    ...(swhid ? [["Software Heritage", link(`https://archive.softwareheritage.org/${swhid}`, swhid)]] : []),
    ...(file.n_cut ? [["cut", bdi(`${number.format(file.n_cut)} lines are longer than the image is wide`)]] : []),
  ];
  $("facts").replaceChildren(
    ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function picture(dataset, pixels, segment, current) {
  const canvas = element("canvas", {});
  draw(canvas, pixels, dataset.height, dataset.width);
  const label = `Image ${segment + 1}: lines ${segment * dataset.height + 1} and following`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const marker = element("span", { className: "marker", hidden: true });
  const made = element("div", { className: current ? "picture current" : "picture" }, canvas, marker);
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.min(dataset.height - 1, Math.floor(((event.clientY - box.top) / box.height) * dataset.height));
    const column = Math.min(dataset.width - 1, Math.floor(((event.clientX - box.left) / box.width) * dataset.width));
    const point = pixels[row * dataset.width + column];
    const line = segment * dataset.height + row + 1;
    const name = `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
    $("pixel").textContent = `line ${number.format(line)}, column ${column + 1}: ${visible(character(point)).replace(" ", "space")} ${name}`;
    light(line);
  });
  canvas.addEventListener("mouseleave", () => light(null));
  return { made, marker };
}

/** Highlight a line of code, or none, and scroll to it. */
function light(line, name = "lit") {
  for (const lit of document.querySelectorAll(`.line.${name}`)) lit.classList.remove(name);
  const found = document.querySelector(`.line[data-line="${CSS.escape(line)}"]`);
  found?.classList.add(name);
  if (found) reveal($("code"), found);
}

/** Mark the line after or before the marked one, or else the first in sight; return its number, null for none. */
export function markNext(by) {
  const all = [...$("code").querySelectorAll(".line")];
  const at = all.findIndex((line) => line.classList.contains("marked"));
  const top = $("code").getBoundingClientRect().top;
  const found = at < 0 ? all.find((line) => line.getBoundingClientRect().top >= top) : all[at + by];
  if (!found) return null;
  const { line } = found.dataset;
  light(line, "marked");
  $("pixel").textContent = `line ${number.format(line)}, and the address leads to it: ${found.textContent.trim()}`;
  return line;
}

/** Scroll a pane until one of its elements is visible; `scrollIntoView` would also scroll the page. */
function reveal(pane, shown) {
  const [outer, inner] = [pane, shown].map((each) => each.getBoundingClientRect());
  if (inner.top < outer.top) pane.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) pane.scrollTop += inner.bottom - outer.bottom;
}

function block(dataset, texts, coloured, segment, current, marker, chosen) {
  const made = element("pre", { className: current ? "block current" : "block" });
  made.dataset.segment = String(segment);
  texts.forEach((text, row) => {
    const line = element("span", { className: "line" });
    line.dataset.line = String(segment * dataset.height + row + 1);
    if (coloured) for (const [classes, part] of coloured[row] ?? []) line.append(element("span", { className: classes }, visible(part)));
    else line.textContent = visible(text);
    line.addEventListener("mouseenter", () => {
      marker.hidden = false;
      marker.style.top = `${(100 * row) / dataset.height}%`;
      marker.style.height = `${100 / dataset.height}%`;
      reveal($("images"), marker);
    });
    line.addEventListener("mouseleave", () => { marker.hidden = true; });
    line.addEventListener("click", ({ clientX }) => {
      if (clientX > line.getBoundingClientRect().left + parseFloat(getComputedStyle(line).paddingLeft)) return; // not on the line number
      light(line.dataset.line, "marked");
      chosen(line.dataset.line);
    });
    if (row < texts.length - 1) line.append("\n"); // not at the end of a block
    made.append(line);
  });
  return made;
}

/** Colours of a text by line; null for a language without a grammar. */
async function colours(text, language, width) {
  const { highlighted } = await import("./highlight.js");
  return highlighted(text, language, width);
}

/** Show the file of an image with a line marked, while it is still `wanted()`; a click on another line calls `chosen(line)`. */
export async function openImage(dataset, image, line, { wanted, chosen }) {
  const dialog = $("detail");
  dialog.dataset.state = "loading";
  if (!dialog.open) dialog.showModal();
  const file = await dataset.fileOf(image, FILE);
  const record = await dataset.record(file.record_id, RECORD);
  if (!wanted()) return;
  if (!record) {
    dialog.close();
    throw new Error(`record ${file.record_id} is withdrawn`);
  }
  const here = image - file.first_image;
  const from = file.n_images <= MOST ? 0 : Math.max(0, here - MOST / 2);
  const to = Math.min(file.n_images, from + MOST);
  const pixels = await Promise.all(
    Array.from({ length: to - from }, (_, i) => dataset.image(file.first_image + from + i)),
  );
  if (!wanted()) return;
  const texts = pixels.map((each, i) =>
    lines(each, dataset.width, Math.min(dataset.height, file.n_lines - (from + i) * dataset.height)),
  );
  const text = texts.flat().join("\n");
  code = { name: file.name, text: `${text}\n` };
  const coloured = await colours(text, file.language, file.n_cut ? dataset.width : Infinity);
  if (!wanted()) return;
  $("title").textContent = visible(record.title ?? `Record ${file.record_id}`);
  $("path").replaceChildren(element("bdi", {}, visible(file.path)));
  facts(file, record, image);
  const pictures = pixels.map((each, i) => picture(dataset, each, from + i, from + i === here));
  $("images").replaceChildren(...pictures.map(({ made }) => made));
  $("code").replaceChildren(
    ...texts.map((each, i) => {
      const first = i * dataset.height;
      return block(dataset, each, coloured?.slice(first, first + each.length), from + i, from + i === here, pictures[i].marker, chosen);
    }),
  );
  const partly = to - from < file.n_images ? `Images ${from + 1} to ${to} of ${number.format(file.n_images)}; → shows more. ` : "";
  $("pixel").textContent = `${partly}Point at a pixel to see its line of code, or at a line to see its pixels.`;
  for (const pane of ["images", "code"]) $(pane).scrollTop = $(pane).querySelector(".current")?.offsetTop ?? 0;
  light(line, "marked");
  dialog.scrollTop = 0;
  $("tree").open = false;
  $("tree").ontoggle = () => { if ($("tree").open) showTree(dataset, file.record_id).catch(errorIn("files")); };
  $("files").replaceChildren();
  dialog.dataset.image = String(image);
  dialog.dataset.state = "drawn";
}

async function showTree(dataset, record) {
  $("files").textContent = "reading the files ...";
  const files = await dataset.filesOf(record, ["path", "n_images", "first_image", "status"]);
  const root = new Map();
  for (const file of files) {
    let folder = root;
    const names = file.path.split("/");
    for (const name of names.slice(0, -1)) {
      if (!(folder.get(name) instanceof Map)) folder.set(name, new Map());
      folder = folder.get(name);
    }
    folder.set(names.at(-1), file);
  }
  const list = (folder) =>
    element("ul", {}, ...[...folder].map(([name, entry]) => {
      if (entry instanceof Map) {
        const open = folder.size === 1;
        return element("li", {}, element("details", { open }, element("summary", {}, element("bdi", {}, visible(name))), list(entry)));
      }
      if (!entry.n_images) return element("li", {}, element("bdi", {}, visible(name)), ` (${entry.status})`);
      const href = `#${new URLSearchParams({ record: String(record), image: String(entry.first_image) })}`;
      return element("li", {}, element("a", { href }, element("bdi", {}, visible(name))), ` ${number.format(entry.n_images)}`);
    }));
  $("files").replaceChildren(list(root));
}

/** Copy the shown code to the clipboard. */
export async function copyCode() {
  await navigator.clipboard.writeText(code.text);
  $("pixel").textContent = "copied";
}

/** Save the shown code as a file. */
export function downloadCode() {
  save(code.text, code.name);
}
