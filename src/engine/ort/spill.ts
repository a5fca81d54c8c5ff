import { bytesOf } from '../../dtype/bytes.ts'
import type { Files } from '../../io/files.ts'

/** Values of chunks in a temporary file instead of in memory. */
export interface Spill {
  write(chunk: number, name: string, data: Float32Array): void
  /** Reads a value that was written, of the same length. */
  read(chunk: number, name: string, into: Float32Array): void
  /** Forgets a value; its place in the file is used again. */
  drop(chunk: number, name: string): void
  /** Gives a value another name. */
  rename(chunk: number, from: string, to: string): void
  close(): void
}

interface Place {
  readonly position: number
  readonly bytes: number
}

/**
 * @param path free; nothing of it is worth keeping after a crash, so it is never synced
 * @throws QuantizeError exhausted when the disk is full
 */
export const createSpill = (path: string, files: Files): Spill => {
  const descriptor = files.open(path, 'create')
  const places = new Map<string, Place>()
  const free = new Map<number, Place[]>()
  let end = 0
  const key = (chunk: number, name: string): string => `${chunk} ${name}`
  const placeOf = (chunk: number, name: string): Place => {
    const place = places.get(key(chunk, name))
    if (!place) throw new Error(`chunk ${chunk} holds no value ${name}`)
    return place
  }
  const newPlace = (bytes: number): Place => {
    const used = free.get(bytes)?.pop()
    if (used) return used
    const place = { position: end, bytes }
    end += bytes
    return place
  }
  return {
    write(chunk, name, data) {
      const bytes = bytesOf(data)
      const place = places.get(key(chunk, name)) ?? newPlace(bytes.byteLength)
      if (place.bytes !== bytes.byteLength) throw new Error(`${name} of chunk ${chunk} has another length`)
      files.writeAt(descriptor, bytes, place.position)
      places.set(key(chunk, name), place)
    },
    read(chunk, name, into) {
      const { position, bytes } = placeOf(chunk, name)
      if (into.byteLength !== bytes || files.readAt(descriptor, bytesOf(into), position) !== bytes)
        throw new Error(`${name} of chunk ${chunk} cannot be read back`)
    },
    drop(chunk, name) {
      const place = placeOf(chunk, name)
      places.delete(key(chunk, name))
      const list = free.get(place.bytes)
      if (list) list.push(place)
      else free.set(place.bytes, [place])
    },
    rename(chunk, from, to) {
      const place = placeOf(chunk, from)
      places.delete(key(chunk, from))
      places.set(key(chunk, to), place)
    },
    close: () => files.close(descriptor),
  }
}

/** The same file for the values of another pass. @param chunks more than the first pass has */
export const spillBeside = (spill: Spill, chunks: number): Spill => ({
  write: (chunk, name, data) => spill.write(chunks + chunk, name, data),
  read: (chunk, name, into) => spill.read(chunks + chunk, name, into),
  drop: (chunk, name) => spill.drop(chunks + chunk, name),
  rename: (chunk, from, to) => spill.rename(chunks + chunk, from, to),
  close: () => {},
})
