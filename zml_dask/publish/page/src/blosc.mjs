// Blosc chunks (format 1, zstd inside), decoded without compiled code.
//
// The decoder of numcodecs is compiled by Emscripten, whose code builds functions from strings, which a page that shows
// untrusted files must not allow. With zstd from fzstd, Blosc is only a header, a list of blocks, and a shuffle:
// https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst

import { decompress } from "fzstd";

const HEADER = 16;
const SHUFFLED = 1;
const STORED = 2;
const BIT_SHUFFLED = 4;
const NOT_SPLIT = 16;
const ZSTD = 4;

function unshuffle(block, size) {
  const count = Math.floor(block.length / size);
  const found = new Uint8Array(block.length);
  for (let byte = 0; byte < size; byte++) {
    const from = byte * count;
    for (let i = 0; i < count; i++) found[i * size + byte] = block[from + i];
  }
  found.set(block.subarray(count * size), count * size);
  return found;
}

function decode(chunk) {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  const flags = chunk[2];
  const typeSize = chunk[3];
  const bytes = view.getUint32(4, true);
  const blockSize = view.getUint32(8, true);
  if (view.getUint32(12, true) !== chunk.length) throw new Error("a Blosc chunk of another length");
  if (flags & STORED) return chunk.slice(HEADER, HEADER + bytes);
  if (flags >> 5 !== ZSTD || flags & BIT_SHUFFLED) throw new Error("not the Blosc that zml_dask writes");
  const found = new Uint8Array(bytes);
  for (let start = 0, block = 0; start < bytes; start += blockSize, block++) {
    const size = Math.min(blockSize, bytes - start);
    const whole = size === blockSize;
    const streams = !(flags & NOT_SPLIT) && whole ? typeSize : 1;
    let at = view.getUint32(HEADER + 4 * block, true);
    const target = new Uint8Array(size);
    for (let i = 0; i < streams; i++) {
      const length = view.getInt32(at, true);
      const data = chunk.subarray(at + 4, at + 4 + length);
      const part = target.subarray((i * size) / streams, ((i + 1) * size) / streams);
      if (length === part.length) part.set(data); // did not shrink
      else part.set(decompress(data, new Uint8Array(part.length)));
      at += 4 + length;
    }
    found.set(flags & SHUFFLED && typeSize > 1 ? unshuffle(target, typeSize) : target, start);
  }
  return found;
}

/** The codec for zarrita. */
export class Blosc {
  kind = "bytes_to_bytes";
  static fromConfig() {
    return new Blosc();
  }
  encode() {
    throw new Error("this page only reads");
  }
  decode(chunk) {
    return decode(chunk);
  }
}
