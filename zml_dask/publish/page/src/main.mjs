// The page: a wall of images, filters, one image beside its code. The address holds the view.

import { Dataset } from "./data.mjs";
import { draw, text, visible } from "./draw.mjs";
import { NONE, place, position, select } from "./selection.mjs";

const PAGE = 120;
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const FILTERS = ["language", "license", "record"];

let dataset;
let selection;
let shown = ""; // the filters that `selection` was made by
let turn = 0; // of the last drawing: what an older one still has to draw is not wanted any more

function view() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function go(changes, { replace = false } = {}) {
  const entries = Object.entries({ ...view(), ...changes }).filter(([, value]) => value !== "" && value != null);
  const hash = `#${new URLSearchParams(entries)}`;
  if (replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  render();
}

function say(message) {
  $("status").textContent = message;
}

function option(value, label) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = label;
  return element;
}

function fillFilters() {
  const ranked = [...dataset.languages].filter(({ images }) => images).sort((a, b) => b.images - a.images);
  for (const { name, images } of ranked) {
    $("language").append(option(name, `${visible(name)} (${number.format(images)})`));
  }
  const licences = new Map();
  for (const { license } of dataset.records.values()) {
    licences.set(license ?? NONE, (licences.get(license ?? NONE) ?? 0) + 1);
  }
  for (const [name, count] of [...licences].sort((a, b) => b[1] - a[1])) {
    $("license").append(option(name, `${visible(name)} (${number.format(count)} records)`));
  }
  for (const { record_id: id, title } of [...dataset.records.values()].slice(0, 1000)) {
    $("records").append(option(String(id), visible(title)));
  }
}

function tile(k) {
  const { file, segment } = place(selection, k);
  const language = dataset.languages[dataset.files.language[file]].name;
  const button = document.createElement("button");
  const image = dataset.files.first[file] + segment;
  button.type = "button";
  button.className = "tile";
  button.dataset.image = String(image);
  button.setAttribute(
    "aria-label",
    visible(`${language}, record ${dataset.files.record[file]}, image ${segment + 1} of ${dataset.files.images[file]}`),
  );
  button.title = button.getAttribute("aria-label");
  button.addEventListener("click", () => go({ image }));
  const canvas = document.createElement("canvas");
  button.append(canvas);
  return { button, canvas, image };
}

async function drawWall(page) {
  const mine = ++turn;
  const start = page * PAGE;
  const tiles = [];
  for (let k = start; k < Math.min(start + PAGE, selection.images); k++) tiles.push(tile(k));
  $("wall").replaceChildren(...tiles.map(({ button }) => button));
  $("wall").dataset.state = "loading";
  await Promise.all(
    tiles.map(async ({ canvas, image }) => {
      const pixels = await dataset.image(image);
      if (mine === turn) draw(canvas, pixels, dataset.height, dataset.width);
    }),
  );
  if (mine === turn) $("wall").dataset.state = "drawn";
}

function linesOf(file, segment) {
  return Math.min(dataset.height, dataset.files.lines[file] - segment * dataset.height);
}

async function openImage(image) {
  const k = position(selection, dataset.files, image);
  const dialog = $("detail");
  if (k < 0) {
    say("that image is not in this selection");
    if (dialog.open) dialog.close();
    return;
  }
  const { file, segment } = place(selection, k);
  dialog.dataset.state = "loading";
  if (!dialog.open) dialog.showModal();
  const [pixels, row] = await Promise.all([
    dataset.image(image),
    dataset.table.row(file, ["path", "language", "size", "encoding", "n_lines", "n_cut"]),
  ]);
  if (view().image !== String(image)) return;
  const record = dataset.records.get(dataset.files.record[file]);
  draw($("pixels"), pixels, dataset.height, dataset.width);
  $("code").textContent = visible(text(pixels, dataset.width, linesOf(file, segment)));
  $("path").textContent = visible(row.path);
  const facts = [
    ["record", `${record.record_id}: ${record.title ?? ""}`],
    ["DOI", record.doi ?? "none"],
    ["licence", record.license ?? "none"],
    ["language", row.language ?? "not named"],
    ["file", `${number.format(Number(row.n_lines))} lines, ${number.format(Number(row.size))} bytes, ${row.encoding}`],
    ["image", `${segment + 1} of ${dataset.files.images[file]}, row ${number.format(image)} of the array`],
  ];
  $("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      term.textContent = name;
      const definition = document.createElement("dd");
      const isDoi = name === "DOI" && /^10\.\d{4,9}\/[-._;()/:A-Za-z0-9]+$/.test(value);
      const holder = isDoi ? document.createElement("a") : document.createElement("bdi");
      if (isDoi) Object.assign(holder, { href: `https://doi.org/${value}`, rel: "noreferrer noopener" });
      holder.textContent = visible(value);
      definition.append(holder);
      return [term, definition];
    }),
  );
  $("whole").href = `#${new URLSearchParams({ record: String(record.record_id) })}`;
  dialog.dataset.image = String(image);
  dialog.dataset.state = "drawn";
}

// Pages count from 1 in the address, as in what the page says, and from 0 within.
const numbered = (name) => Math.max(0, Math.trunc(Number(name)) - 1 || 0);
const named = (page) => (page ? page + 1 : "");

function step(by) {
  const { image, page } = view();
  if (image !== undefined) {
    const k = position(selection, dataset.files, Number(image)) + by;
    if (k < 0 || k >= selection.images) return;
    const { file, segment } = place(selection, k);
    go({ image: dataset.files.first[file] + segment, page: named(Math.floor(k / PAGE)) }, { replace: true });
  } else {
    const next = numbered(page) + by;
    if (next >= 0 && next * PAGE < selection.images) go({ page: named(next) });
  }
}

let wallShown = "";

async function render() {
  const now = view();
  for (const name of FILTERS) if ($(name).value !== (now[name] ?? "")) $(name).value = now[name] ?? "";
  const filters = JSON.stringify(FILTERS.map((name) => now[name] ?? ""));
  if (filters !== shown) {
    selection = select(dataset, now);
    shown = filters;
    wallShown = "";
  }
  const pages = Math.max(1, Math.ceil(selection.images / PAGE));
  const page = Math.min(numbered(now.page), pages - 1);
  say(
    selection.images
      ? `${number.format(selection.images)} images of ${number.format(selection.rows.length)} files; page ${number.format(page + 1)} of ${number.format(pages)}`
      : "no image fits",
  );
  $("previous").disabled = page === 0;
  $("next").disabled = page === pages - 1;
  const wall = drawnOnce(`${filters} ${page}`, () => drawWall(page));
  const image = Number(now.image);
  if (now.image !== undefined && Number.isInteger(image)) await openImage(image);
  else if ($("detail").open) $("detail").close();
  await wall;
}

async function drawnOnce(key, make) {
  if (key === wallShown) return;
  wallShown = key;
  await make();
}

function failed(error) {
  say(`Cannot show it: ${error?.message ?? error}`);
  document.body.dataset.state = "failed";
}

function onKey(event) {
  const typing = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "Escape") document.activeElement.blur();
    return;
  }
  // There the arrows move the text.
  if (document.activeElement?.id === "code" && event.key.startsWith("Arrow")) return;
  if (event.key === "ArrowRight" || event.key === "n") step(1);
  else if (event.key === "ArrowLeft" || event.key === "p") step(-1);
  else if (event.key === "/") $("record").focus();
  else return;
  event.preventDefault();
}

async function main() {
  const base = new URL(document.querySelector("meta[name=dataset]").content, location.href);
  say("reading the tables ...");
  dataset = await Dataset.open(base);
  fillFilters();
  for (const name of FILTERS) $(name).addEventListener("change", () => go({ [name]: $(name).value, page: "", image: "" }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("earlier").addEventListener("click", () => step(-1));
  $("later").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => go({ image: "" }));
  $("detail").addEventListener("cancel", (event) => {
    event.preventDefault();
    go({ image: "" });
  });
  addEventListener("keydown", onKey);
  addEventListener("popstate", () => render().catch(failed));
  addEventListener("unhandledrejection", ({ reason }) => failed(reason));
  await render();
  document.body.dataset.state = "ready";
}

main().catch(failed);
