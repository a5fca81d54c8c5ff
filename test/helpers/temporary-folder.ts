import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** A folder of the calling test file's own, removed after it. */
export const temporaryFolder = (): string => {
  const folder = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'quantize-test-')))
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
  return folder
}
