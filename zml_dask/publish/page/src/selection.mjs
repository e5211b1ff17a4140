// Which images are on the wall. A selection is read only as far as somebody looks at it.

import { mayHold } from "./parquet.mjs";

export const NONE = "(none)";

/** Filters of files, and the column of `files_by_language` that each asks. */
export const FILE_FILTERS = { group: "language_group", language: "language", extension: "extension" };
/** Filters of records. */
export const RECORD_FILTERS = ["license", "year", "record"];

const named = (value) => (value === NONE ? null : value);

/** A list of runs of images that grows: for each file, or record, its first image and how many. */
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

  /** Position of the last number of an ascending list that is not above `wanted`, by bisection. */
  static last(list, wanted) {
    let low = -1;
    let high = list.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (list[middle] <= wanted) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The k-th image: its row in the dataset, and what is known of it. */
  at(k) {
    const run = Math.min(Runs.last(this.before, k), this.first.length - 1);
    return { image: this.first[run] + k - this.before[run], ...this.facts[run] };
  }
}

/** Every image, or those of some records: known without looking at a single file. */
class Everything {
  constructor(runs) {
    this.runs = runs;
    this.whole = true; // nothing is left to be read
    this.images = runs.images;
    this.files = null;
  }

  async reach() {}

  at(k) {
    return this.runs.at(k);
  }
}

/** Images of the files that fit, found row group by row group. */
class OfFiles {
  constructor(table, columns, groups, fits, expected) {
    Object.assign(this, { table, columns, groups, fits, expected });
    this.runs = new Runs();
    this.files = 0;
    this.next = 0;
    this.reading = Promise.resolve();
  }

  get whole() {
    return this.next >= this.groups.length;
  }

  /** Images found so far; all of them where the summary or the end of the table says so. */
  get images() {
    return this.whole ? this.runs.images : Math.max(this.expected ?? 0, this.runs.images);
  }

  /** Read on until the k-th image is known, or nothing is left; `wanted` may say to stop. */
  reach(k, wanted = () => true, progress = () => {}) {
    this.reading = this.reading.then(async () => {
      while (!this.whole && this.runs.images <= k && wanted()) {
        const { first, rows } = this.groups[this.next];
        const columns = await this.table.read(this.columns, first, first + rows);
        for (let i = 0; i < rows; i++) {
          if (!columns.n_images[i] || !this.fits(columns, i)) continue;
          this.files += 1;
          this.runs.add(columns.first_image[i], columns.n_images[i], {
            file: columns.file_id?.[i] ?? first + i,
            record: columns.record_id[i],
            language: columns.language?.[i],
          });
        }
        this.next += 1;
        progress(this.next / this.groups.length);
      }
    });
    return this.reading;
  }

  at(k) {
    return this.runs.at(k);
  }
}

/** Records as columns, with the first image of each; withdrawn ones are left out of `shown`. */
async function readRecords(dataset, columns) {
  const found = await dataset.recordColumns(["record_id", "n_images", ...columns]);
  const first = new Array(found.record_id.length);
  let images = 0;
  for (let i = 0; i < first.length; i++) {
    first[i] = images;
    images += found.n_images[i];
  }
  return { ...found, first };
}

const year = (date) => (date == null ? null : String(new Date(date).getUTCFullYear()));

/** Whether a record fits what was typed: its number, its DOI, or words of its title. */
function fitsText(columns, i, wanted) {
  if (/^\d+$/.test(wanted)) return String(columns.record_id[i]) === wanted;
  const text = `${columns.doi[i] ?? ""} ${columns.title[i] ?? ""}`.toLowerCase();
  return wanted.split(/\s+/).every((word) => text.includes(word));
}

/** Choose images by what the address says; reads no more than the choice itself needs. */
export async function select(dataset, view) {
  const wanted = view.record?.trim().toLowerCase();
  const path = view.path?.toLowerCase();
  const fileFilters = Object.entries(FILE_FILTERS).filter(([name]) => view[name]);
  const ofRecords = [
    ...(view.license ? ["license"] : []),
    ...(view.year ? ["publication_date"] : []),
    ...(wanted && !/^\d+$/.test(wanted) ? ["doi", "title"] : []),
  ];
  let chosen = null; // the records that fit, where records are asked about
  let runs = null;
  if (ofRecords.length || wanted || dataset.withdrawn.size) {
    const columns = await readRecords(dataset, ofRecords);
    chosen = new Set();
    runs = new Runs();
    for (let i = 0; i < columns.first.length; i++) {
      const id = columns.record_id[i];
      if (
        !dataset.withdrawn.has(id) &&
        (!view.license || (columns.license[i] ?? null) === named(view.license)) &&
        (!view.year || year(columns.publication_date[i]) === named(view.year)) &&
        (!wanted || fitsText(columns, i, wanted))
      ) {
        chosen.add(id);
        runs.add(columns.first[i], columns.n_images[i], { record: id });
      }
    }
  }
  if (!fileFilters.length && !path) {
    if (runs === null) {
      runs = new Runs();
      runs.add(0, dataset.info.counts.images, {});
    }
    return new Everything(runs);
  }
  const table = dataset.table(path ? "files" : "files_by_language");
  const asked = fileFilters.map(([name, column]) => [column, named(view[name])]);
  const records = chosen && [...chosen];
  const least = records?.reduce((a, b) => Math.min(a, b), Infinity);
  const greatest = records?.reduce((a, b) => Math.max(a, b), -Infinity);
  const groups = await table.groupsWhere(
    (bounds) =>
      asked.every(([column, value]) => mayHold(bounds[column], value)) &&
      (!records || (bounds.record_id.least <= greatest && bounds.record_id.greatest >= least)),
  );
  const fits = (columns, i) =>
    asked.every(([column, value]) => (columns[column][i] ?? null) === value) &&
    (!chosen || chosen.has(columns.record_id[i])) &&
    (!path || columns.path[i].toLowerCase().includes(path));
  const names = new Set([
    "record_id", "first_image", "n_images", "language", ...asked.map(([column]) => column),
    ...(path ? ["path"] : ["file_id"]),
  ]);
  const alone = fileFilters.length === 1 && !path && !chosen;
  const expected = alone ? dataset.summary.images(asked[0][0], asked[0][1]) : null;
  return new OfFiles(table, [...names], groups, fits, expected);
}

/**
 * Numbers 0 to n - 1 in an order that a seed gives, without a list of them: a Feistel network over
 * the next power of four, walked until it lands below n (Black and Rogaway 2002, "cycle walking").
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

export { year };
