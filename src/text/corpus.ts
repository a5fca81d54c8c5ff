import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { printable } from '../io/printable.ts'
import { packageFile } from '../package-files.ts'

/** Text to calibrate with. */
export interface Corpus {
  /** `bundled`, or the file's base name. */
  readonly name: string
  /** One a .txt file; one a line of a .jsonl file. */
  readonly documents: readonly string[]
  /** Of the text file's bytes (the bundled text's: unpacked), hexadecimal. */
  readonly sha256: string
}

const maxBytes = 256 << 20 // half a string's limit in V8, and 4000 times the text that the default windows take
const bundledPath = fileURLToPath(packageFile('../data/calibration.jsonl.gz'))

/**
 * Reads a corpus whole.
 * - `bundled`: the text that comes with this package (data/README.md).
 * - `*.txt`: one document; line ends are read as \n, whatever they are, as Python and its tools read text.
 * - `*.jsonl`: one document a line, an object with a string `text` or a plain JSON string; empty lines are passed over.
 *
 * A byte order mark at the start is no part of the text.
 * @throws QuantizeError bad-option for another extension; bad-input when the file is missing, empty, too large, not UTF-8, or a line cannot be read
 */
export function readCorpus(spec: string, files: Files): Corpus {
  if (spec === 'bundled') return corpusOf(spec, spec, gunzipSync(readBytes(bundledPath, files)), jsonLines)
  const parse = parserOf(spec)
  return corpusOf(basename(spec), spec, readBytes(spec, files), parse)
}

type Parser = (text: string, path: string) => string[]

function parserOf(path: string): Parser {
  if (/\.txt$/i.test(path)) return text => [text.replace(/\r\n?/g, '\n')]
  if (/\.jsonl$/i.test(path)) return jsonLines
  throw new QuantizeError('bad-option', `${printable(path)}: text is read from a .txt file, a .jsonl file, or bundled`)
}

function corpusOf(name: string, path: string, bytes: Uint8Array, parse: Parser): Corpus {
  const documents = parse(decode(bytes, path), path)
  if (!documents.some(document => document.length > 0))
    throw new QuantizeError('bad-input', `${printable(path)} holds no text`)
  return { name, documents, sha256: createHash('sha256').update(bytes).digest('hex') }
}

function readBytes(path: string, files: Files): Uint8Array {
  const stat = files.stat(path)
  if (stat?.kind !== 'file') throw new QuantizeError('bad-input', `${printable(path)}: no such text file`)
  if (stat.bytes > maxBytes) {
    throw new QuantizeError(
      'bad-input',
      `${printable(path)} has ${stat.bytes} bytes, more than ${maxBytes}; give a part of it`,
    )
  }
  const bytes = new Uint8Array(stat.bytes)
  const descriptor = files.open(path, 'read')
  try {
    return bytes.subarray(0, files.readAt(descriptor, bytes, 0))
  } finally {
    files.close(descriptor)
  }
}

function decode(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new QuantizeError('bad-input', `${printable(path)} is not UTF-8 text; convert it first`, { cause: error })
  }
}

function jsonLines(text: string, path: string): string[] {
  const documents: string[] = []
  text.split('\n').forEach((line, index) => {
    if (line.trim() !== '') documents.push(documentOf(line, `${printable(path)}: line ${index + 1}`))
  })
  return documents
}

function documentOf(line: string, where: string): string {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    throw new QuantizeError('bad-input', `${where} is not JSON`, { cause: error })
  }
  if (typeof value === 'string') return value
  const text = typeof value === 'object' && value !== null ? (value as { text?: unknown }).text : undefined
  if (typeof text === 'string') return text
  throw new QuantizeError('bad-input', `${where} is neither a string nor an object with a string field "text"`)
}
