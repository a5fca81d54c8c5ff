import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import { type Imatrix, readImatrix } from '../../src/gguf/imatrix.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'

export const imatrixFixture = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(new URL(`../../fixtures/imatrix/${name}`, import.meta.url)))

/** Under a name that says nothing. */
export const readBytes = (bytes: Uint8Array): Imatrix => {
  const { files, open } = memoryFiles({ m: bytes })
  try {
    return readImatrix('m', files)
  } finally {
    expect(open()).toBe(0)
  }
}
