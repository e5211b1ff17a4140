// What several parts of the page use: images on a canvas and as text, and elements.

const SPACE = 32;

/** Draw code points in grey: spaces are white, higher code points darker, as in the report. */
export function draw(canvas, pixels, height, width) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < pixels.length; i++) {
    const grey = pixels[i] === SPACE ? 255 : 200 - 2 * Math.max(0, Math.min(pixels[i] - 33, 100));
    image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = grey;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The character of a pixel. */
export function character(point) {
  return point <= 0x10ffff ? String.fromCodePoint(point) : "\ufffd";
}

/** Lines of text from pixels, without trailing spaces. */
export function lines(pixels, width, count) {
  const found = [];
  for (let row = 0; row < count; row++) {
    let line = "";
    for (const point of pixels.subarray(row * width, (row + 1) * width)) line += character(point);
    found.push(line.replace(/ +$/, ""));
  }
  return found;
}

/** Escape characters that are invisible or reverse the text. */
export function visible(name) {
  return String(name ?? "").replace(
    /(?!\n)[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (c) => `\\u{${c.codePointAt(0).toString(16)}}`,
  );
}

/** Stands for a missing value. */
export const NONE = "(none)";

/** The year of a date as text; null for none. */
export const year = (date) => (date == null ? null : String(new Date(date).getUTCFullYear()));

export const $ = (id) => document.getElementById(id);

export const number = new Intl.NumberFormat("en");

/** A handler of errors that shows their message in an element. */
export const errorIn = (id) => (error) => {
  $(id).textContent = visible(error.message);
};

/** Save data as a file. */
export function save(data, name) {
  const url = URL.createObjectURL(new Blob([data]));
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

/** Position of the last number of an ascending list that is not greater than `wanted`; -1 for none. */
export function lastUpTo(list, wanted) {
  let low = -1;
  let high = list.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (list[middle] <= wanted) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Make an element with attributes and children; strings are always text, never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
