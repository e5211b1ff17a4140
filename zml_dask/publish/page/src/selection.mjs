// Selections of images for the wall, which are read only as far as they are shown.

import { lastUpTo, NONE, year } from "./draw.mjs";
import { inTurn, mayHold } from "./parquet.mjs";

/** Filters of files, and their columns in `files_by_language`. */
const FILE_FILTERS = { group: "language_group", language: "language", extension: "extension" };
/** All filters in the address. */
const FILTERS = [...Object.keys(FILE_FILTERS), "license", "year", "keyword", "record", "path", "size", "lasso"];
/** Orders of the wall: the number by which files or records are sorted, and whether the greatest comes first. */
const ORDERS = { newest: ["date", true], oldest: ["date", false], largest: ["size", true], smallest: ["size", false] };

const MOST_FITTING = 5_000_000; // files that are searched for the points of a map that fit
const AT_ONCE = 200; // files of a result that are looked up together

const named = (value) => (value === NONE ? null : value);

/** Runs of images, one for each file or record: the first image, their number, and facts about them. */
class Runs {
  constructor() {
    this.first = [];
    this.before = [0];
    this.facts = [];
  }

  get images() {
    return this.before[this.before.length - 1];
  }

  add(first, images, facts) {
    if (!images) return;
    this.first.push(first);
    this.facts.push(facts);
    this.before.push(this.images + images);
  }

  /** Sort the runs; those without a number come last. */
  sort(order) {
    const [key, descending] = ORDERS[order];
    const sign = descending ? -1 : 1;
    const sizes = this.facts.map((_, i) => this.before[i + 1] - this.before[i]);
    const { first, facts } = this;
    const value = (i) => facts[i][key] ?? null;
    const compare = (a, b) => (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b)) || a - b;
    const places = first.map((_, i) => i).sort(compare);
    Object.assign(this, { first: [], before: [0], facts: [] });
    for (const i of places) this.add(first[i], sizes[i], facts[i]);
  }

  imagesWhere(fits) {
    return this.facts.reduce((sum, facts, i) => sum + (fits(facts) ? this.before[i + 1] - this.before[i] : 0), 0);
  }

  /** The k-th image: its row in the dataset, and the facts of its run. */
  at(k) {
    const run = Math.min(lastUpTo(this.before, k), this.first.length - 1);
    return { image: this.first[run] + k - this.before[run], ...this.facts[run] };
  }
}

/** Chosen images, in runs that are added when they are needed. Those of some records are known from the start. */
class Selection {
  constructor(runs = new Runs(), more = {}) {
    Object.assign(this, { runs, files: null, expected: null, reading: Promise.resolve(), ...more });
  }

  /** Whether all images are known. */
  get whole() {
    return true;
  }

  get images() {
    return this.runs.images;
  }

  /** Number of images whose position is known. */
  get placed() {
    return this.runs.images;
  }

  /** Read on until the k-th image is known, all are, or `wanted()` is false; `progress` is told the share that was read. */
  reach(k, wanted = () => true, progress = () => {}) {
    this.reading = this.reading.then(async () => {
      let isRead = false;
      while (!this.whole && this.placed <= k && wanted()) {
        progress(await this.readOn());
        isRead = true;
      }
      if (isRead && this.order) this.runs.sort(this.order);
    });
    return this.reading;
  }

  at(k) {
    return this.runs.at(k);
  }
}

/** No images. */
export const nothing = () => new Selection();

/** Images of the files that fit, found row group by row group. */
class OfFiles extends Selection {
  constructor(given) {
    super(new Runs(), { ...given, files: 0, next: 0 });
    // The largest, or smallest, files are known once they are beyond the bound of the next group.
    if (this.bySize) this.groups.sort((a, b) => this.compare(this.bound(a), this.bound(b)));
  }

  get whole() {
    return this.next >= this.groups.length;
  }

  get bySize() {
    return this.order && ORDERS[this.order][0] === "size";
  }

  compare(a, b) {
    return ORDERS[this.order][1] ? b - a : a - b;
  }

  /** The bound of the sizes in a group. */
  bound({ bounds: { size: { least = -Infinity, greatest = Infinity } = {} } }) {
    return ORDERS[this.order][1] ? greatest : least;
  }

  get placed() {
    if (!this.order || this.whole) return this.runs.images;
    if (!this.bySize) return 0;
    const bound = this.bound(this.groups[this.next]);
    return this.runs.imagesWhere(({ size }) => this.compare(size, bound) <= 0);
  }

  /** Images found so far, or all if the summary or the end of the table tells. */
  get images() {
    return this.whole ? this.runs.images : Math.max(this.expected ?? 0, this.runs.images);
  }

  async readOn() {
    const { first, rows } = this.groups[this.next];
    const columns = await this.table.read([...new Set(["first_image", "n_images", "language", ...this.columns])], first, first + rows);
    for (let i = 0; i < rows; i++) {
      if (!columns.n_images[i] || !this.fits(columns, i, first + i)) continue;
      this.files += 1;
      const facts = { record: columns.record_id[i], language: columns.language[i] };
      if (this.order) Object.assign(facts, { size: columns.size?.[i], date: this.dates?.get(facts.record) });
      this.runs.add(columns.first_image[i], columns.n_images[i], facts);
    }
    this.next += 1;
    return this.next / this.groups.length;
  }
}

/** Images of the files that the result of a query names; files are looked up when they are needed. */
class OfResult extends Selection {
  constructor(table, numbers, withdrawn, fits) {
    super(new Runs(), { table, numbers, withdrawn, fits, next: 0 });
  }

  get whole() {
    return this.next >= this.numbers.length;
  }

  async readOn() {
    const numbers = this.numbers.slice(this.next, this.next + AT_ONCE);
    const rows = await this.table.rowsAt(numbers, ["first_image", "n_images", "record_id", "language"]);
    for (const { first_image: first, n_images: images, record_id: record, language } of rows) {
      if (!this.withdrawn.has(record)) this.runs.add(first, images, { record, language });
    }
    this.next += numbers.length;
    return this.next / this.numbers.length;
  }
}

const inside = (value, end) => Number.isInteger(value) && value >= 0 && value < end;

/** The images, files or records that a result names, as a selection; null for none. Its `fits(of)` is like `fitting`. */
export async function ofResult(dataset, names, numbers) {
  const named = ["image", "file_id", "record_id"].find((name) => names.includes(name));
  if (!named) return null;
  const found = [...new Set((await numbers([named]))[0])]; // each once, where it comes first
  if (named === "file_id") {
    const table = dataset.table("files");
    const numbers = found.filter((value) => inside(value, table.rows));
    const ofFiles = new Set(numbers);
    const fits = async (of) => (of === "files" ? (_, row) => ofFiles.has(row) : isOneOf((await table.rowsAt(numbers, ["record_id"])).map((row) => row.record_id)));
    return new OfResult(table, numbers, dataset.withdrawn, fits);
  }
  const runs = new Runs();
  const { record_id: ids, n_images: images, first } = await readRecords(dataset, []);
  if (named === "image") {
    for (const image of found) {
      const record = inside(image, dataset.info.counts.images) ? ids[lastUpTo(first, image)] : null;
      if (record !== null && !dataset.withdrawn.has(record)) runs.add(image, 1, { record });
    }
    const fits = (of) => (of === "files" ? null : isOneOf(runs.facts.map(({ record }) => record)));
    return new Selection(runs, { fits });
  }
  const rows = new Map(ids.map((id, i) => [id, i]));
  for (const record of found) {
    const i = rows.get(record);
    if (i !== undefined && !dataset.withdrawn.has(record)) runs.add(first[i], images[i], { record });
  }
  return new Selection(runs, { fits: () => isOneOf(found) });
}

/** A function that tells whether a point of a map is of one of some records. */
function isOneOf(records) {
  const all = new Set(records);
  return (record) => all.has(record);
}

/** Columns of the records, with the first image of each. */
async function readRecords(dataset, columns) {
  return { ...(await dataset.recordColumns(["record_id", "n_images", ...columns])), first: await dataset.firstImages() };
}

/** Parse "1000-50k" as the least and greatest number of bytes; either may be missing. */
function sizes(text) {
  const units = { k: 1e3, m: 1e6, g: 1e9 };
  const found = /^\s*(?:([\d.]+)\s*([kmg]?)b?)?\s*(-?)\s*(?:([\d.]+)\s*([kmg]?)b?)?\s*$/i.exec(text);
  if (!found) throw new Error(`${text}: write a size as 10k-1M, 10k- or -1M, in bytes`);
  const [, least, leastUnit, to, greatest, greatestUnit] = found;
  const bytes = (value, unit, other) => (value ? Number(value) * (units[unit.toLowerCase()] ?? 1) : other);
  return [bytes(least, leastUnit ?? "", 0), to ? bytes(greatest, greatestUnit ?? "", Infinity) : Infinity];
}

/** Parse "x,y,x,y,..." as corners of a polygon on the map. */
export function corners(text) {
  const values = (text ?? "").split(",").map(Number);
  const found = [];
  for (let i = 0; i + 1 < values.length; i += 2) if (Number.isFinite(values[i]) && Number.isFinite(values[i + 1])) found.push([values[i], values[i + 1]]);
  return found;
}

/** Whether a point is within a polygon: whether a ray from it crosses the border an odd number of times. */
function isWithin(x, y, polygon) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i];
    const [bx, by] = polygon[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

/** Whether the map is of records or files. */
export const mapOf = (view) => (view.of === "files" ? "files" : "records");

/** Rows of the points within a polygon, in ascending order. */
function rowsWithin({ rows, positions }, polygon) {
  return rows.filter((_, i) => isWithin(positions[2 * i], positions[2 * i + 1], polygon));
}

/** Whether a record has the number, or all words in its DOI and title. */
function fitsText(columns, i, wanted) {
  if (/^\d+$/.test(wanted)) return String(columns.record_id[i]) === wanted;
  const text = `${columns.doi[i] ?? ""} ${columns.title[i] ?? ""}`.toLowerCase();
  return wanted.split(/\s+/).every((word) => text.includes(word));
}

/** The conditions in the address: records that fit them, and for conditions on files the groups of files to be searched. */
async function conditions(dataset, view) {
  const wanted = view.record?.trim().toLowerCase();
  const path = view.path?.toLowerCase();
  const keyword = view.keyword?.trim().toLowerCase();
  const order = view.sort in ORDERS ? view.sort : null;
  const ofDate = order && ORDERS[order][0] === "date";
  const ofSize = order && ORDERS[order][0] === "size";
  const [least, greatest] = view.size ? sizes(view.size) : [0, Infinity];
  const fileFilters = Object.entries(FILE_FILTERS).filter(([name]) => view[name]);
  const ofRecords = [
    ...(view.license ? ["license"] : []),
    ...(view.year || ofDate ? ["publication_date"] : []),
    ...(keyword ? ["keywords"] : []),
    ...(wanted && !/^\d+$/.test(wanted) ? ["doi", "title"] : []),
  ];
  let chosen = null; // the records that fit, if there are conditions on records
  let runs = null;
  const dates = ofDate ? new Map() : null;
  // Rows of records, or of files, within the line on the map.
  const of = mapOf(view);
  const within = view.lasso ? rowsWithin(await dataset.points(of), corners(view.lasso)) : null;
  const withinFiles = of === "files" ? within : null;
  const withinRecords = of === "records" ? within && new Set(within) : null;
  if (ofRecords.length || wanted || withinRecords || dataset.withdrawn.size) {
    const columns = await readRecords(dataset, ofRecords);
    chosen = new Set();
    runs = new Runs();
    for (let i = 0; i < columns.first.length; i++) {
      const id = columns.record_id[i];
      if (
        !dataset.withdrawn.has(id) &&
        (!view.license || (columns.license[i] ?? null) === named(view.license)) &&
        (!view.year || year(columns.publication_date[i]) === named(view.year)) &&
        (!keyword || (columns.keywords[i] ?? []).some((each) => each?.toLowerCase().includes(keyword))) &&
        (!withinRecords || withinRecords.has(i)) &&
        (!wanted || fitsText(columns, i, wanted))
      ) {
        chosen.add(id);
        const date = ofDate ? columns.publication_date[i] : null;
        dates?.set(id, date);
        runs.add(columns.first[i], columns.n_images[i], { record: id, date });
      }
    }
  }
  if (!fileFilters.length && !path && !view.size && !ofSize && !withinFiles) return { chosen, runs, order, files: null };
  const byRow = path || withinFiles; // row n of this table is file n
  const table = dataset.table(byRow ? "files" : "files_by_language");
  const asked = fileFilters.map(([name, column]) => [column, named(view[name])]);
  const records = chosen && [...chosen];
  const first = records?.reduce((a, b) => Math.min(a, b), Infinity);
  const last = records?.reduce((a, b) => Math.max(a, b), -Infinity);
  const groups = await table.groupsWhere(
    (bounds, start, stop) =>
      (!withinFiles || withinFiles[lastUpTo(withinFiles, stop - 1)] >= start) &&
      asked.every(([column, value]) => mayHold(bounds[column], value)) &&
      (!records || (bounds.record_id.least <= last && bounds.record_id.greatest >= first)),
  );
  const inside = withinFiles && new Set(withinFiles);
  const fits = (columns, i, row) =>
    (!inside || inside.has(row)) &&
    asked.every(([column, value]) => (columns[column][i] ?? null) === value) &&
    (!chosen || chosen.has(columns.record_id[i])) &&
    (!view.size || (columns.size[i] >= least && columns.size[i] <= greatest)) &&
    (!path || columns.path[i].toLowerCase().includes(path));
  const columns = [
    "record_id", ...asked.map(([column]) => column),
    ...(path ? ["path"] : []),
    ...(byRow ? [] : ["file_id"]),
    ...(view.size || ofSize ? ["size"] : []),
  ];
  const isCounted = asked.length < 2 && !byRow && !chosen && !view.size;
  const expected = isCounted ? (asked.length ? dataset.summary.images(...asked[0]) : dataset.info.counts.images) : null;
  return { chosen, runs, order, files: { table, columns, groups, fits, expected, order, dates } };
}

/** The images that fit the address; reads no more than necessary. */
export async function select(dataset, view) {
  const { runs, order, files } = await conditions(dataset, view);
  if (files) return new OfFiles(files);
  const found = runs ?? new Runs();
  if (runs === null) found.add(0, dataset.info.counts.images, {});
  else if (order) found.sort(order);
  return new Selection(found);
}

/**
 * Which points of a map fit the address, as a function of a record and a row; null if all do. For conditions on files, all
 * that may fit are searched, as long as the result is `wanted()`.
 */
export async function fitting(dataset, view, of, wanted) {
  if (!FILTERS.some((name) => view[name])) return null;
  const { chosen, files: asked } = await conditions(dataset, { ...view, sort: "" });
  if (!asked) return (record) => chosen.has(record);
  const { table, columns, groups, fits } = asked;
  const files = groups.reduce((sum, { rows }) => sum + rows, 0);
  if (files > MOST_FITTING) throw new Error(`${files.toLocaleString("en")} files may fit, too many to find their points; add filters`);
  const found = of === "files" ? new Uint8Array(dataset.table("files").rows) : new Set();
  await inTurn(groups, async ({ first, rows }) => {
    if (!wanted()) return;
    const read = await table.read(columns, first, first + rows);
    for (let i = 0; i < rows; i++) {
      if (!fits(read, i, first + i)) continue;
      if (of === "files") found[read.file_id?.[i] ?? first + i] = 1;
      else found.add(read.record_id[i]);
    }
  });
  return of === "files" ? (_, row) => found[row] : (record) => found.has(record);
}

/**
 * The k-th of the numbers 0 to n - 1 in a random order given by a seed, without a list: a Feistel network over the
 * next power of four, repeated until the result is below n (Black and Rogaway 2002, "cycle walking").
 */
export function shuffled(k, n, seed) {
  if (n < 2) return k;
  const half = Math.ceil(Math.log2(n) / 2) || 1;
  const mask = 2 ** half - 1;
  const mix = (value, round) => {
    let h = Math.imul(value ^ Math.imul(round + 1, 0x9e3779b1) ^ seed, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return (h ^ (h >>> 16)) & mask;
  };
  let found = k;
  do {
    let left = Math.floor(found / 2 ** half);
    let right = found & mask;
    for (let round = 0; round < 4; round++) [left, right] = [right, left ^ mix(right, round)];
    found = left * 2 ** half + right;
  } while (found >= n);
  return found;
}

