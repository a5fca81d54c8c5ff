/**
 * An append-only file of records, one a line: the first 16 hexadecimal digits of the SHA-256 of its JSON, a space, the JSON. What a crash
 * leaves half written at the end fails its checksum: reading stops there, and the next record takes its place.
 */
import { createHash } from 'node:crypto'
import { QuantizeError } from '../errors.ts'
import type { Files } from './files.ts'
import { parseJson } from './parse-json.ts'
import { printable } from './printable.ts'

export interface RecordLog {
  /** Adds records and syncs the file: when this returns they are there for good. */
  append(records: readonly unknown[]): void
  close(): void
}

/** A log of a run is some kilobytes for each tensor. */
const maxBytes = 2 ** 28

const digest = (json: string): string => createHash('sha256').update(json).digest('hex').slice(0, 16)

const lineOf = (record: unknown): string => {
  const json = JSON.stringify(record)
  return `${digest(json)} ${json}\n`
}

/** The record of a line, undefined where the line is not whole. */
const recordOf = (line: string, path: string): unknown => {
  const json = line.slice(17)
  if (line[16] !== ' ' || digest(json) !== line.slice(0, 16)) return undefined
  return parseJson(json, path)
}

const logAt = (descriptor: number, end: number, files: Files): RecordLog => {
  let at = end
  return {
    append(records) {
      if (records.length === 0) return
      const bytes = new TextEncoder().encode(records.map(lineOf).join(''))
      files.writeAt(descriptor, bytes, at)
      files.sync(descriptor)
      at += bytes.byteLength
    },
    close: () => files.close(descriptor),
  }
}

/** Starts a log at a free path. */
export const createLog = (path: string, files: Files): RecordLog => logAt(files.open(path, 'create'), 0, files)

/** The whole records of an open log, and where the last of them ends. */
const readRecords = (descriptor: number, path: string, files: Files) => {
  const { bytes } = files.statOpen(descriptor)
  if (bytes > maxBytes)
    throw new QuantizeError('bad-input', `${printable(path)}: is ${bytes} bytes long; at most ${maxBytes} are read`)
  const content = new Uint8Array(bytes)
  const there = files.readAt(descriptor, content, 0)
  if (there < bytes)
    throw new QuantizeError('bad-input', `${printable(path)}: ended at byte ${there} of ${bytes} while it was read`)
  const records: unknown[] = []
  let end = 0
  for (;;) {
    const newline = content.indexOf(0x0a, end)
    if (newline < 0) break
    const record = recordOf(new TextDecoder().decode(content.subarray(end, newline)), path)
    if (record === undefined) break
    records.push(record)
    end = newline + 1
  }
  return { records, end, bytes }
}

/** The records of a log that another process may be writing: nothing of it is changed. @throws QuantizeError as openLog */
export const readLog = (path: string, files: Files): readonly unknown[] => {
  const descriptor = files.open(path, 'read')
  try {
    return readRecords(descriptor, path, files).records
  } finally {
    files.close(descriptor)
  }
}

/**
 * Opens a log that exists, to go on behind its last whole record. What follows that is cut off.
 * @throws QuantizeError bad-input when the file is too large to be a log, or a record whose checksum holds is no JSON
 */
export const openLog = (
  path: string,
  files: Files,
): { readonly log: RecordLog; readonly records: readonly unknown[] } => {
  const descriptor = files.open(path, 'update')
  try {
    const { records, end, bytes } = readRecords(descriptor, path, files)
    if (end < bytes) files.truncate(descriptor, end)
    return { log: logAt(descriptor, end, files), records }
  } catch (error) {
    files.close(descriptor)
    throw error
  }
}
