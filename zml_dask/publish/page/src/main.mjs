// The page: a wall of images, filters, and a file beside its images. The address contains the state.

import { Dataset } from "./data.mjs";
import { copyCode, downloadCode, markNext, openImage } from "./detail.mjs";
import { $, draw, element, errorIn, NONE, number, visible } from "./draw.mjs";
import { corners, fitting, mapOf, nothing, ofResult, select, shuffled } from "./selection.mjs";

const PAGE = 120;
const SHUFFLED = 40; // each of them is in another chunk
const CONTROLS = { group: "group", language: "language", extension: "extension", license: "license", year: "year", keyword: "keyword", record: "record", path: "path-filter", size: "size", lasso: "lasso", sort: "sort" };
const DIMENSIONS = [["group", "language_group", "Language group"], ["language", "language", "Language"], ["extension", "extension", "Extension"], ["license", "license", "Licence"], ["year", "year", "Year"], [null, "status", "Files by status"]];
const MAPPED = ["map", "of", "at", "near", "like"]; // parts of the address that only concern the map
const MENU = 400; // values of a dimension in a menu

let dataset;
let selection;
let shown = null; // the filters of `selection`
let wallShown = "";
let turn = 0; // number of the last drawing; older ones stop reading
let sql = null; // the code for SQL, and its engine for this dataset
let map = null; // the map, once it was opened
let opened = false; // whether the open image was opened from the wall

function view() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function addressWith(changes) {
  const entries = Object.entries({ ...view(), ...changes }).filter(([, value]) => value !== "" && value != null);
  return `#${new URLSearchParams(entries)}`;
}

/** Change the address without drawing. */
const note = (changes) => history.replaceState(null, "", addressWith(changes));

function go(changes, { replace = false } = {}) {
  if (replace) note(changes);
  else history.pushState(null, "", addressWith(changes));
  render().catch(failed);
}

/** Change filters, and show the first page. */
const choose = (changes) => go({ ...changes, sql: "", page: "", image: "", line: "" });

/** Choose images by a query in SQL instead of filters. */
function ask(question) {
  const nothing = Object.fromEntries(Object.keys(view()).filter((name) => !MAPPED.includes(name)).map((name) => [name, ""]));
  shown = null; // so that the same query runs again
  go({ ...nothing, sql: question.trim() });
}

function say(message) {
  $("status").textContent = message;
}

/** The greatest value first, and missing values last. */
const byValue = (a, b) => ((b.value ?? "") > (a.value ?? "") ? 1 : -1);

function fillFilters() {
  const labelled = ({ value, images, records }, ofRecords) => {
    const count = ofRecords ? `${number.format(records)} records` : number.format(images);
    return element("option", { value: value ?? NONE }, `${visible(value ?? NONE)} (${count})`);
  };
  for (const [name, dimension] of DIMENSIONS) {
    if (name === null) continue;
    const values = dataset.summary.ranked(dimension).slice(0, MENU);
    const target = name === "extension" ? $("extensions") : $(CONTROLS[name]);
    const ofRecords = name === "license" || name === "year";
    if (ofRecords) values.sort((a, b) => (name === "year" ? byValue(a, b) : b.records - a.records));
    target.append(...values.filter(({ images, value }) => value !== undefined && (images || ofRecords)).map((each) => labelled(each, ofRecords)));
  }
}

function showStatistics() {
  $("bars").replaceChildren(
    ...DIMENSIONS.map(([name, dimension, title]) => {
      const measure = name === null ? "files" : "images";
      const ranked = dataset.summary.ranked(dimension).sort((a, b) => b[measure] - a[measure]);
      const values = name === "year" ? ranked.slice(0, 40).sort(byValue) : ranked.slice(0, 12);
      const most = Math.max(1, ...values.map((each) => each[measure]));
      const rows = values.map((each) => {
        const label = visible(each.value ?? NONE);
        const bar = element("meter", { max: most, value: each[measure], "aria-hidden": "true" });
        const parts = [element("bdi", {}, label), element("span", {}, number.format(each[measure])), bar];
        const button = element("button", { type: "button" }, ...parts);
        button.addEventListener("click", () => (name === null ? ask(`SELECT record_id, file_id, path, size, reason FROM files WHERE status = '${each.value}'`) : choose({ [name]: each.value ?? NONE })));
        return button;
      });
      return element("section", {}, element("h3", {}, `${title} (${measure})`), ...rows);
    }),
  );
}

const seedOf = ({ seed }) => (seed === undefined ? null : Math.trunc(Number(seed)) || 0);

const pageSize = (now) => (seedOf(now) === null ? PAGE : SHUFFLED);

/** The position in the selection of the k-th image on the wall. */
function placed(k, now) {
  const seed = seedOf(now);
  return seed === null ? k : shuffled(k, selection.images, seed);
}

function tile({ image, record, language }) {
  const words = [language, record === undefined ? null : `record ${record}`, `image ${number.format(image)}`];
  const label = visible(words.filter(Boolean).join(", "));
  const button = element("button", { type: "button", className: "tile", title: label, "aria-label": label, tabIndex: -1 });
  button.dataset.image = String(image);
  button.addEventListener("click", () => { opened = true; go({ image }); });
  const canvas = element("canvas", {});
  button.append(canvas);
  return { button, canvas, image };
}

async function drawWall(start, stop, now, key) {
  const tiles = [];
  for (let k = start; k < stop; k++) tiles.push(tile(selection.at(placed(k, now))));
  if (tiles.length) tiles[0].button.tabIndex = 0; // the tab key stops once at the wall; arrows move within
  $("wall").replaceChildren(...tiles.map(({ button }) => button));
  $("wall").dataset.state = "loading";
  await Promise.all(
    tiles.map(async ({ canvas, image }) => {
      const pixels = await dataset.image(image);
      if (wallShown === key) draw(canvas, pixels, dataset.height, dataset.width);
    }),
  );
  if (wallShown === key) $("wall").dataset.state = "drawn";
}

// Pages are numbered from 1 in the address and in texts, and from 0 in the code.
const numbered = (name) => Math.max(0, Math.trunc(Number(name)) - 1 || 0);
const named = (page) => (page ? page + 1 : "");

async function step(by) {
  const now = view();
  if (now.image !== undefined) {
    const next = Number(now.image) + by;
    const steps = [...document.querySelectorAll(".tile")].map((each) => Number(each.dataset.image));
    const at = steps.indexOf(Number(now.image));
    // In the order of the wall if the image is on it, otherwise to the neighbour in the dataset.
    if (at >= 0 && at + by >= 0 && at + by < steps.length) go({ image: steps[at + by], line: "" }, { replace: true });
    else if (at >= 0) await turnPage(by, true);
    else if (next >= 0 && next < dataset.info.counts.images) go({ image: next, line: "" }, { replace: true });
  } else await turnPage(by, false);
}

async function turnPage(by, withImage) {
  const size = pageSize(view());
  const next = numbered(view().page) + by;
  if (next < 0) return;
  await selection.reach(next * size, () => true, progress);
  if (next * size >= selection.images) return;
  const changes = { page: named(next), line: "" };
  if (withImage) {
    const k = by > 0 ? next * size : Math.min(selection.images, (next + 1) * size) - 1;
    changes.image = selection.at(placed(k, view())).image;
  }
  go(changes, { replace: withImage });
}

function progress(share) {
  $("stop").hidden = share >= 1;
  say(`searching: ${Math.round(share * 100)} %`);
}

function close() {
  // Back to the wall from which it was opened, so that "back" does not open the image again.
  if (opened) {
    opened = false;
    history.back();
  } else go({ image: "", line: "" }, { replace: true });
}

function showEmpty(now) {
  const remove = (names, label) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => choose(Object.fromEntries(names.map((name) => [name, ""]))));
    return button;
  };
  const set = Object.keys(CONTROLS).filter((name) => now[name]);
  const offers = set.map((name) => remove([name], name === "lasso" ? "without the line on the map" : `without ${name} = ${visible(now[name])}`));
  if (set.length > 1) offers.push(remove(set, "without any filter"));
  $("empty").replaceChildren(element("p", {}, "No image matches all filters. Show images:"), ...offers);
}

async function render() {
  const mine = ++turn;
  const now = view();
  for (const [name, id] of Object.entries(CONTROLS)) if ($(id).value !== (now[name] ?? "")) setControl($(id), now[name] ?? "");
  $("shuffle").setAttribute("aria-pressed", String(seedOf(now) !== null));
  if (now.sql !== undefined) $("query").value = now.sql;
  const filters = JSON.stringify(["sql", ...Object.keys(CONTROLS), ...(now.lasso ? ["of"] : [])].map((name) => now[name] ?? ""));
  let stopped = false;
  $("stop").onclick = () => { stopped = true; };
  if (filters !== shown) {
    const chosen = now.sql ? await askSql(now.sql) : await select(dataset, now);
    if (mine !== turn) return;
    selection = chosen;
    shown = filters;
    wallShown = "";
  }
  const page = numbered(now.page);
  const size = pageSize(now);
  // Shuffled pages have images from everywhere, so all of them must be known.
  const needed = seedOf(now) === null ? (page + 1) * size - 1 : Infinity;
  await selection.reach(needed, () => mine === turn && !stopped, progress);
  if (mine !== turn) return;
  $("stop").hidden = true;
  const pages = Math.max(1, Math.ceil(selection.images / size));
  const here = Math.min(page, pages - 1);
  const stop = Math.min((here + 1) * size, selection.whole ? selection.images : selection.runs.images);
  const open = selection.whole || selection.expected != null ? "" : "+";
  const files = selection.files === null || !selection.whole ? "" : ` of ${number.format(selection.files)} files`;
  say(
    selection.images
      ? `${number.format(selection.images)}${open} images${files}; page ${number.format(here + 1)} of ${number.format(pages)}${open}`
      : now.sql ? "the result has no column image, file_id or record_id" : "no matching image",
  );
  $("page").value = String(here + 1);
  $("previous").disabled = here === 0;
  $("next").disabled = here === pages - 1 && selection.whole;
  $("wall").hidden = !selection.images;
  $("empty").hidden = selection.images > 0 || Boolean(now.sql);
  if (!selection.images && !now.sql) showEmpty(now);
  const key = `${filters} ${here} ${now.seed ?? ""} ${selection.images}`;
  const isOther = key !== wallShown;
  wallShown = key;
  const wall = isOther ? drawWall(here * size, stop, now, key) : null;
  if (now.map) showMap(now, filters).catch(errorIn("place"));
  else $("map").open = false;
  $("lasso-clear").hidden = !now.lasso;
  const image = Number(now.image);
  if (now.image !== undefined && Number.isInteger(image) && image >= 0 && image < dataset.info.counts.images) {
    await openImage(dataset, image, now.line, { wanted: () => view().image === String(image), chosen: (line) => note({ line }) });
  } else if ($("detail").open) $("detail").close();
  await wall;
}

/** Show the map according to the address; its code is loaded with the first one. */
async function showMap(now, filters) {
  $("map").open = true;
  if (!dataset.maps.length) {
    $("map").dataset.state = "missing";
    return;
  }
  map ??= import("./map.js").then(({ PointMap }) => new PointMap(dataset, { view, choose, go, note }));
  const of = mapOf(now);
  if (!dataset.maps.includes(of)) throw new Error(`this dataset has no map of its ${of}: zml-dask derive DATASET ${of === "files" ? "file" : "record"}_map makes one`);
  const by = ["language", "license", "year"].includes(now.map) ? now.map : "language";
  $("of").value = of;
  $("colour").value = by;
  $("map").dataset.state = "shown";
  await (await map).draw({ ...now, of, by, lasso: now.lasso ? corners(now.lasso) : null, filters, fitting: () => (now.sql ? selection.fits?.(of) ?? null : fitting(dataset, now, of, () => shown === filters)) });
}

/** Open the box for SQL; its code is loaded the first time. */
async function openSql() {
  const code = await import("./sql.js");
  sql ??= { ...code, engine: new code.Engine(dataset) };
  $("sql").open = true;
  return sql;
}

/** Run a query, and return the selection for the wall. Errors are shown beside the query. */
async function askSql(question) {
  const { engine, showTable, showTables } = await openSql();
  $("answer").textContent = "running ...";
  $("halt").hidden = false;
  $("sql").dataset.state = "asking";
  try {
    const found = await engine.ask(question);
    showTables(found.tables);
    await showTable(engine, found);
    const names = found.columns.map(({ name }) => name);
    const chosen = await ofResult(dataset, names, (columns) => engine.call("numbers", { columns }));
    $("sql").dataset.state = "answered";
    return chosen ?? nothing();
  } catch (error) {
    $("result").replaceChildren();
    $("answer").textContent = visible(error.message);
    $("sql").dataset.state = "refused";
    return nothing();
  } finally {
    $("halt").hidden = true;
  }
}

function setControl(control, value) {
  // The address may contain values that are not in the menu.
  if (control.tagName === "SELECT" && ![...control.options].some((each) => each.value === value)) {
    control.append(element("option", { value }, visible(value)));
  }
  control.value = value;
}

function failed(error) {
  say(`Cannot show it: ${error?.message ?? error}`);
  document.body.dataset.state = "failed";
}

/** Move the focus on the wall; returns whether it was there. */
function moveOnWall(key) {
  const tiles = [...document.querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) return false;
  const across = tiles.filter((each) => each.offsetTop === tiles[0].offsetTop).length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[key];
  const next = tiles[at + by];
  if (next) {
    tiles[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  return true;
}

const ACTIONS = {
  ArrowRight: () => step(1),
  n: () => step(1),
  ArrowLeft: () => step(-1),
  p: () => step(-1),
  "/": () => {
    $("choose").open = true;
    $("record").focus();
  },
  "?": () => $("help").showModal(),
  s: () => shuffle(),
  c: () => $("detail").open && copyCode(),
  j: () => markLine(1),
  k: () => markLine(-1),
};

/** Mark a line of the open file; the address then leads to it. */
function markLine(by) {
  const line = $("detail").open && markNext(by);
  if (line) note({ line });
}

function shuffle() {
  go({ seed: (seedOf(view()) ?? 0) + 1, sort: "", page: "", image: "" });
}

function onKey(event) {
  if (event.key === "Enter" && event.ctrlKey && event.target.tagName === "TEXTAREA") event.target.form.requestSubmit();
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const focused = document.activeElement;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(focused?.tagName)) {
    if (event.key === "Escape") focused.blur();
    return;
  }
  // There the arrows scroll.
  if (["code", "images", "result"].includes(focused?.id) && event.key.startsWith("Arrow")) return;
  if (event.key.startsWith("Arrow") && !$("detail").open && moveOnWall(event.key)) {
    event.preventDefault();
    return;
  }
  if (!(event.key in ACTIONS)) return;
  event.preventDefault();
  Promise.resolve(ACTIONS[event.key]()).catch(failed);
}

/** Save the result of the last query. */
async function save(format) {
  const { download, engine } = await openSql();
  if ($("sql").dataset.state !== "answered") throw new Error("run a query first");
  await download(engine, format);
}

function listen() {
  for (const [name, id] of Object.entries(CONTROLS)) {
    $(id).addEventListener("change", () => choose({ [name]: $(id).value.trim(), ...(name === "sort" ? { seed: "" } : {}) }));
  }
  $("page").addEventListener("change", () => go({ page: named(numbered($("page").value)), image: "" }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const clicks = { previous: () => turnPage(-1, false), next: () => turnPage(1, false), earlier: () => step(-1), later: () => step(1), close, copy: copyCode, download: downloadCode, keys: () => $("help").showModal(), "help-close": () => $("help").close() };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", () => Promise.resolve(act()).catch(failed));
  $("shuffle").addEventListener("click", () => (seedOf(view()) === null ? shuffle() : go({ seed: "", page: "" })));
  $("detail").addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  $("statistics").addEventListener("toggle", () => $("statistics").open && showStatistics());
  $("sql").addEventListener("toggle", () => $("sql").open && openSql().catch(failed));
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("query").value);
  });
  for (const button of document.querySelectorAll("#ask [data-format]")) {
    button.addEventListener("click", () => save(button.dataset.format).catch(errorIn("answer")));
  }
  $("map").addEventListener("toggle", () => {
    if ($("map").open !== Boolean(view().map)) go($("map").open ? { map: "language", of: dataset.maps.includes("records") ? "" : dataset.maps[0] } : { map: "", at: "", near: "", like: "" });
  });
  $("of").addEventListener("change", () => go({ of: $("of").value === "files" ? "files" : "", at: "", near: "", lasso: "" }));
  $("colour").addEventListener("change", () => go({ map: $("colour").value }));
  $("lasso-clear").addEventListener("click", () => choose({ lasso: "" }));
  $("halt").addEventListener("click", () => sql?.engine.stop());
  addEventListener("keydown", onKey);
  addEventListener("popstate", () => render().catch(failed));
  addEventListener("unhandledrejection", ({ reason }) => failed(reason));
}

async function main() {
  const base = new URL(document.querySelector("meta[name=dataset]").content, location.href);
  say("reading the dataset ...");
  dataset = await Dataset.open(base);
  for (const id of ["choose", "about"]) $(id).open = matchMedia("(min-width: 50rem)").matches; // closed on a phone, where the images are below
  fillFilters();
  listen();
  await render();
  document.body.dataset.state = "ready";
}

main().catch(failed);
