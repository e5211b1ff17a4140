// The vector of a text, as in learning/words.py and derived/embedding.py (a test compares them), and the records or files
// that are nearest to it.

import { inTurn } from "./parquet.mjs";

const MULTIPLIER = 0x9e3779b97f4a7c15n;
const MIX_1 = 0xff51afd7ed558ccdn;
const MIX_2 = 0xc4ceb9fe1a85ec53n;
const LINE_START = 0x5851f42d4c957f2dn;
const NUMBER = 48n;
const BUCKET_BITS = 18;
const WORD = /[\w\u0080-\u{10ffff}]+|[!-~]/gu; // a run of letters, digits and _, or one mark
const WORDS = /^[\w\u0080-\u{10ffff}]/u;
const BASE = 4099; // of patterns: shapes are smaller
const MOST_VECTORS = 1_000_000; // read for one search: 68 MB
const COMPARED = 30; // records whose files are compared if there are too many files

const low64 = (value) => BigInt.asUintN(64, value);

function mixed(value) {
  value ^= value >> 33n;
  value = low64(value * MIX_1);
  value ^= value >> 33n;
  value = low64(value * MIX_2);
  return value ^ (value >> 33n);
}

function hash(word) {
  if (/^\d/.test(word)) return mixed(low64((NUMBER + 1n) * MULTIPLIER)); // all numbers are the same word
  let value = 0n;
  for (const character of word) value = low64((value + BigInt(character.codePointAt(0)) + 1n) * MULTIPLIER);
  return mixed(value);
}

const bucket = (value) => Number(value >> BigInt(64 - BUCKET_BITS));

/** The shape of a word in a pattern: a mark itself, a name, or a number; and whether it follows spaces. */
const shape = (word, isApart) => (WORDS.test(word) ? (/^\d/.test(word) ? 503 : 502) : word.codePointAt(0)) + (isApart ? 1000 : 0);

/** Counts of words, pairs and patterns in a text whose lines are cut at `width`, by bucket. */
export function countWords(text, width) {
  const counts = new Map();
  const hashes = new Map();
  const add = (number) => counts.set(number, (counts.get(number) ?? 0) + 1);
  for (const line of text.replaceAll("\t", "    ").split(/\r\n|\r|\n/)) {
    const cut = [...line.slice(0, 2 * width)].slice(0, width).join("");
    let before = LINE_START;
    let end = 0;
    let [one, two, three] = [0, 0, 0]; // shapes of the words before
    for (const { 0: word, index: start } of cut.matchAll(WORD)) {
      if (!hashes.has(word)) hashes.set(word, hash(word));
      const own = hashes.get(word);
      add(bucket(own));
      add(bucket(mixed(low64(before * MULTIPLIER + own))));
      const isFirst = before === LINE_START;
      if (isFirst) one = 3000 + Math.min(start, 9);
      const last = shape(word, !isFirst && start > end);
      const ofThree = (two * BASE + one) * BASE + last;
      add(bucket(mixed(low64(BigInt(ofThree) * MULTIPLIER + 3n))));
      add(bucket(mixed(low64(BigInt(three * BASE ** 3 + ofThree) * MULTIPLIER + 4n))));
      [three, two, one] = [two, one, last];
      end = start + word.length;
      before = own;
    }
  }
  return counts;
}

/** A 16-bit float, for browsers without Float16Array. */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  return (bits & 0x8000 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** The vector of a text as signed bytes; null without words. `weights` has a row of 16-bit floats for each bucket, or null. */
function embed(text, weights, width) {
  const size = weights.find(Boolean).length / 2;
  const sum = new Float32Array(size);
  for (const [number, count] of countWords(text, width)) {
    const row = weights[number];
    if (!row) continue;
    const scale = Math.fround(1 + Math.log(count));
    for (let k = 0; k < size; k++) sum[k] += Math.fround(scale * half(row[2 * k] | (row[2 * k + 1] << 8)));
  }
  const factor = Math.fround(127 / sum.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  return Number.isFinite(factor) ? Int8Array.from(sum, (value) => even(Math.fround(value * factor))) : null;
}

/** Vectors of several ranges of rows: their row numbers, records, and values one after the other. */
async function readVectors(table, spans) {
  const parts = await inTurn(spans, async ([start, stop]) => {
    const { record_id: records, vector: vectors } = await table.read(["record_id", "vector"], start, stop);
    const there = vectors.reduce((sum, each) => sum + (each ? 1 : 0), 0);
    const found = { rows: new Int32Array(there), records: new Float64Array(there), numbers: null };
    let n = 0;
    vectors.forEach((each, i) => {
      if (!each) return;
      found.numbers ??= new Int8Array(there * each.length);
      found.rows[n] = start + i;
      found.records[n] = records[i];
      found.numbers.set(new Int8Array(each.buffer, each.byteOffset, each.length), each.length * n++);
    });
    return found;
  });
  return parts.filter(({ rows }) => rows.length);
}

/** The rows nearest to a vector by the cosine, the nearest first, without those of some records. */
async function nearest(parts, wanted, count, leftOut) {
  const size = wanted.length;
  const length = Math.hypot(...wanted);
  const best = [];
  await inTurn(parts, async ({ rows, records, numbers }) => {
    for (let i = 0, at = 0; i < rows.length; i++, at += size) {
      let product = 0;
      let squares = 0;
      for (let k = 0; k < size; k++) {
        const value = numbers[at + k];
        product += value * wanted[k];
        squares += value * value;
      }
      const likeness = product / (length * Math.sqrt(squares));
      if ((best.length === count && likeness <= best[count - 1].likeness) || leftOut(records[i])) continue;
      best.push({ row: rows[i], record: records[i], likeness });
      best.sort((a, b) => b.likeness - a.likeness);
      best.length = Math.min(best.length, count);
    }
  });
  return best;
}

/** Searches a dataset by vectors, which are all read for the first search. */
export class Similar {
  constructor(dataset) {
    Object.assign(this, { dataset, all: new Map() });
  }

  has(of) {
    return this.table(of).rows > 0;
  }

  table(of) {
    return this.dataset.table(of === "files" ? "derived/embedding" : "derived/record_embedding");
  }

  /** Identifies the weights, so that a vector in an address is not compared with vectors by other weights. */
  get version() {
    return (this.dataset.info.tables["derived/embedding_weights"] ?? []).map(({ sha256 }) => sha256.slice(0, 8)).join("");
  }

  /** The vector of a text; null without words. */
  async embed(text) {
    this.weights ??= this.dataset.table("derived/embedding_weights").read(["weights"]);
    const { weights } = await this.weights;
    if (!weights.length) throw new Error("this dataset has no weights: run zml-dask derive DATASET record_embedding");
    return embed(text, weights, this.dataset.width ?? this.dataset.info.shape.width);
  }

  /** The records or files most similar to a vector, except those of one record. */
  async find(of, wanted, count, own = null) {
    const leftOut = (record) => record === own || this.dataset.withdrawn.has(record);
    const table = this.table(of);
    if (table.rows > MOST_VECTORS) {
      if (of !== "files" || !this.has("records")) throw new Error(`${table.rows} vectors are too many for this page; use zml-dask similar`);
      // Only the files of the most similar records: a good approximation with a thousandth of the data.
      const near = await this.find("records", wanted, COMPARED, own);
      const spans = await Promise.all(near.map(({ record }) => this.dataset.spansOf(record)));
      return nearest(await readVectors(table, spans.flat()), wanted, count, leftOut);
    }
    if (!this.all.has(of)) this.all.set(of, table.groupsWhere(() => true).then((groups) => readVectors(table, groups.map(({ first, rows }) => [first, first + rows]))));
    return nearest(await this.all.get(of), wanted, count, leftOut);
  }
}
