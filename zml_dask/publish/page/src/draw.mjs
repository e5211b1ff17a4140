// Pixels to a canvas and to text.

const SPACE = 32;

/** Draw code points as grey: white a space, darker a higher code point (as in the report). */
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

/** One character of an image. */
export function character(point) {
  return point <= 0x10ffff ? String.fromCodePoint(point) : "\ufffd";
}

/** Read lines back from pixels, without the spaces at their ends. */
export function lines(pixels, width, count) {
  const found = [];
  for (let row = 0; row < count; row++) {
    let line = "";
    for (const point of pixels.subarray(row * width, (row + 1) * width)) line += character(point);
    found.push(line.replace(/ +$/, ""));
  }
  return found;
}

/** Show what would be invisible, or would turn the text around it. */
export function visible(name) {
  return String(name ?? "").replace(
    /(?!\n)[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (c) => `\\u{${c.codePointAt(0).toString(16)}}`,
  );
}

/** How the page writes what a table has no value for. */
export const NONE = "(none)";

/** The year of a date as text; null where there is none. */
export const year = (date) => (date == null ? null : String(new Date(date).getUTCFullYear()));

/** Make an element with attributes and children; text is only ever text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
