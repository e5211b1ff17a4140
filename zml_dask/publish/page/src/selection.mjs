// Which images are on the wall: pure functions over the tables' columns.

export const NONE = "(none)";

/** Choose files; returns their rows and, for each, how many images come before it. */
export function select({ files, languages, records }, { language, license, record }) {
  const code = language ? languages.findIndex(({ name }) => name === language) : null;
  const wanted = record?.trim().toLowerCase();
  const fits = new Map();
  for (const [id, row] of records) {
    const text = `${id} ${row.doi ?? ""} ${row.title ?? ""}`.toLowerCase();
    fits.set(
      id,
      (!license || (row.license ?? NONE) === license) &&
        (!wanted || (/^\d+$/.test(wanted) ? String(id) === wanted : text.includes(wanted))),
    );
  }
  const rows = [];
  const before = [0];
  for (let i = 0; i < files.count; i++) {
    if (files.images[i] && (code === null || files.language[i] === code) && fits.get(files.record[i])) {
      rows.push(i);
      before.push(before[before.length - 1] + files.images[i]);
    }
  }
  return { rows, before, images: before[before.length - 1] };
}

/** The file and the segment of the k-th image of a selection, by bisection. */
export function place({ rows, before }, k) {
  let low = 0;
  let high = rows.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (before[middle] <= k) low = middle;
    else high = middle - 1;
  }
  return { file: rows[low], segment: k - before[low] };
}

/** The position of an image (by its row in the dataset) in a selection, or -1. */
export function position({ rows, before }, files, image) {
  let low = 0;
  let high = rows.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (files.first[rows[middle]] <= image) low = middle;
    else high = middle - 1;
  }
  const segment = rows.length ? image - files.first[rows[low]] : -1;
  return segment >= 0 && segment < files.images[rows[low]] ? before[low] + segment : -1;
}
