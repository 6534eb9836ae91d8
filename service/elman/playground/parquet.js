// Parquet: the numbers of a flat table. The format is described at https://parquet.apache.org/docs/file-format.

/** Numbers of a table that a box for text can still show. */
const MOST_NUMBERS = 200_000;
/** Bytes of a page when it is unpacked. */
const MOST_PAGE = 8_000_000;
const PLAIN = 0;
const RLE = 3;
const DICTIONARY = new Set([2, 8]);
const [DATA, DICTIONARY_PAGE, DATA_V2] = [0, 2, 3];
const CODECS = ["uncompressed", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4"];
const ENCODINGS = { 5: "delta", 6: "delta", 7: "delta", 9: "byte stream split" };
/** How numbers of a physical type are read; those of 64 bits that are whole come as big integers. */
const READERS = { 1: [4, "getInt32"], 2: [8, "getBigInt64"], 4: [4, "getFloat32"], 5: [8, "getFloat64"] };
const UNSIGNED = { 1: "getUint32", 2: "getBigUint64" };
const BOOLEAN = 0;
/** Converted types of whole numbers: without a sign, and with one. */
const [WITHOUT_SIGN, WITH_SIGN] = [[11, 12, 13, 14], [15, 16, 17, 18]];
/** The logical type of whole numbers. */
const WHOLE = 10;
const INDEX = /^__index_level_\d+__$/;

/** Bytes with a place in them that is read next. */
const cursor = (bytes, at = 0) => ({ bytes, at, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) });

function byte(from) {
  if (from.at >= from.bytes.length) throw new RangeError("the end");
  return from.bytes[from.at++];
}

function varint(from) {
  for (let value = 0, scale = 1; ; scale *= 128) {
    const next = byte(from);
    value += (next & 127) * scale;
    if (next < 128) return value;
  }
}

function signed(from) {
  const value = varint(from);
  return value % 2 ? -(value + 1) / 2 : value / 2;
}

function taken(from, length) {
  if (length < 0 || from.at + length > from.bytes.length) throw new RangeError("the end");
  from.at += length;
  return from.bytes.subarray(from.at - length, from.at);
}

/** A value of Thrift's compact protocol: a struct is an object by field number. */
const THRIFT = {
  1: () => true,
  2: () => false,
  3: byte,
  4: signed,
  5: signed,
  6: signed,
  7: (from) => taken(from, 8),
  8: (from) => new TextDecoder().decode(taken(from, varint(from))),
  9: list,
  10: list,
  12: struct,
};

function struct(from) {
  const found = {};
  for (let head = byte(from), id = 0; head; head = byte(from)) {
    id = head >> 4 ? id + (head >> 4) : signed(from);
    found[id] = THRIFT[head & 15](from);
  }
  return found;
}

function list(from) {
  const head = byte(from);
  const length = head >> 4 === 15 ? varint(from) : head >> 4;
  // A truth value in a list has a byte of its own.
  const one = (head & 15) < 3 ? (rest) => byte(rest) === 1 : THRIFT[head & 15];
  return Array.from({ length }, () => one(from));
}

/** Whole numbers of a few bits each, in runs and in groups of eight. */
function runs(from, width, count) {
  const found = [];
  while (found.length < count) {
    const head = varint(from);
    if (head % 2) {
      const packed = taken(from, ((head - 1) / 2) * width);
      for (let i = 0; i < 4 * (head - 1) && found.length < count; i++) {
        let value = 0;
        for (let bit = 0; bit < width; bit++) {
          const at = i * width + bit;
          value += ((packed[at >> 3] >> (at & 7)) & 1) * 2 ** bit;
        }
        found.push(value);
      }
    } else {
      const value = taken(from, Math.ceil(width / 8)).reduceRight((sum, next) => sum * 256 + next, 0);
      for (let i = 0; i < head / 2 && found.length < count; i++) found.push(value);
    }
  }
  return found;
}

/** The format is described at https://github.com/google/snappy/blob/main/format_description.txt. */
function unsnapped(bytes, length) {
  const from = cursor(bytes);
  const out = new Uint8Array(length);
  if (varint(from) !== length) throw new RangeError("another length");
  const little = (count) => taken(from, count).reduceRight((sum, next) => sum * 256 + next, 0);
  for (let end = 0; from.at < bytes.length; ) {
    const tag = byte(from);
    const kind = tag & 3;
    if (kind === 0) {
      const short = tag >> 2;
      const literal = taken(from, 1 + (short < 60 ? short : little(short - 59)));
      out.set(literal, end);
      end += literal.length;
      continue;
    }
    const count = kind === 1 ? 4 + ((tag >> 2) & 7) : 1 + (tag >> 2);
    const back = kind === 1 ? (tag >> 5) * 256 + byte(from) : little(kind === 2 ? 2 : 4);
    if (!back || back > end || end + count > length) throw new RangeError("no such bytes");
    for (let i = 0; i < count; i++, end++) out[end] = out[end - back];
  }
  return out;
}

function unpacked(bytes, codec, length) {
  if (length > MOST_PAGE) throw new RangeError("a page too large");
  return codec === 0 ? bytes : unsnapped(bytes, length);
}

/** Values that stand there as they are. */
function plain(from, { type, unsigned }, count) {
  if (type === BOOLEAN) {
    const packed = taken(from, Math.ceil(count / 8));
    return Array.from({ length: count }, (_, i) => (packed[i >> 3] >> (i & 7)) & 1);
  }
  const [size, read] = READERS[type];
  const found = Array.from({ length: count }, (_, i) =>
    from.view[unsigned ? UNSIGNED[type] : read](from.at + i * size, true),
  );
  from.at += count * size;
  return found;
}

function values(from, column, encoding, count, dictionary) {
  if (encoding === PLAIN) return plain(from, column, count);
  if (encoding === RLE) return runs(cursor(prefixed(from)), 1, count);
  if (!DICTIONARY.has(encoding) || !dictionary)
    throw new Refusal(`the column ${column.name} is written in the encoding ${ENCODINGS[encoding] ?? encoding}`);
  return count ? runs(from, byte(from), count).map((i) => dictionary[i]) : [];
}

/** {rows, encoding, levels, page} of a page of values: `levels` are the bytes that say where there is one. */
function parts(head, body, codec, optional) {
  if (head[1] === DATA) {
    const page = cursor(unpacked(body, codec, head[2]));
    const levels = optional ? prefixed(page) : null;
    return { rows: head[5][1], encoding: head[5][2], levels, page };
  }
  const { 1: rows, 4: encoding, 5: defined, 6: repeated, 7: packed = true } = head[8];
  const before = repeated + defined;
  const page = cursor(unpacked(body.subarray(before), packed ? codec : 0, head[2] - before));
  return { rows, encoding, levels: optional ? body.subarray(repeated, before) : null, page };
}

/** Bytes that follow their own number. */
const prefixed = (from) => taken(from, cursor(taken(from, 4)).view.getUint32(0, true));

/** The values of a part of a column, null where there is none. */
function chunk(bytes, column, { 4: codec, 5: count, 9: data, 11: dictionaryAt }) {
  if (codec > 1) throw new Refusal(`the column ${column.name} is packed with ${CODECS[codec] ?? codec}`);
  const from = cursor(bytes, dictionaryAt || data);
  let found = [];
  let dictionary = null;
  while (found.length < count) {
    const head = struct(from);
    const body = taken(from, head[3]);
    if (head[1] === DICTIONARY_PAGE) dictionary = plain(cursor(unpacked(body, codec, head[2])), column, head[7][1]);
    if (head[1] !== DATA && head[1] !== DATA_V2) continue;
    const { rows, encoding, levels, page } = parts(head, body, codec, column.optional);
    if (rows > count - found.length) throw new RangeError("more rows than there are");
    const there = levels ? runs(cursor(levels), 1, rows) : Array(rows).fill(1);
    const read = values(page, column, encoding, there.reduce((sum, one) => sum + one, 0), dictionary).values();
    found = found.concat(there.map((one) => (one ? read.next().value : null)));
  }
  return found;
}

/** What is the matter with a table that cannot be read here. */
class Refusal extends Error {}

/** A column of numbers, of its element of the schema. */
function columnOf({ 1: type, 3: repetition, 4: name, 6: converted, 10: logical }) {
  // Dates, times and decimals are stored as whole numbers too.
  const kinds = [converted ?? WITH_SIGN[0], logical && !(WHOLE in logical) ? null : WITH_SIGN[0]];
  const numbers = kinds.every((kind) => WITHOUT_SIGN.includes(kind) || WITH_SIGN.includes(kind));
  if (!numbers || (type !== BOOLEAN && !READERS[type])) throw new Refusal(`the column ${name} has no numbers`);
  return { name, type, optional: repetition === 1, unsigned: WITHOUT_SIGN.includes(converted) };
}

/** The rows of a table of numbers, `rows[step][column]`; a frame's index is left out. Raises Error that says why not. */
export function parquetRows(bytes) {
  try {
    const end = cursor(bytes, bytes.length - 8);
    const foot = struct(cursor(bytes, bytes.length - 8 - end.view.getUint32(end.at, true)));
    const [{ 5: width }, ...elements] = foot[2];
    const [rows, groups] = [foot[3], foot[4]];
    if (elements.length !== width) throw new Refusal("a column is nested");
    if (rows * width > MOST_NUMBERS)
      throw new Refusal(`${rows} rows of ${width} numbers are more than the ${MOST_NUMBERS} numbers that are read here`);
    const columns = elements.map((one, i) => (INDEX.test(one[4]) ? [] : [[columnOf(one), i]])).flat();
    const all = columns.map(([column, i]) => groups.flatMap((group) => chunk(bytes, column, group[1][i][3])));
    return Array.from({ length: rows }, (_, step) => all.map((values) => values[step]));
  } catch (error) {
    throw error instanceof Refusal ? error : new Error("it is damaged, or no Parquet file");
  }
}
