/** Some thousand executions of every fuzzer; `npm run fuzz` runs them for longer. */
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { execute } from './execute.ts'
import { parsers } from './parsers.ts'

const textOf = (file: Uint8Array): string => JSON.stringify(Buffer.from(file).toString('latin1'))

describe.each(parsers)('$name', parser => {
  afterAll(() => parser.close?.())

  it('takes or refuses any file in one line, quickly, and within the memory that the file is worth', async () => {
    const seen = { accepted: 0, refused: 0 }
    const readable = parser.file.map(file => Object.assign(file, { [fc.toStringMethod]: () => textOf(file) }))
    const property = fc.asyncProperty(readable, async file => {
      const { accepted, crash } = await execute(parser, file)
      expect(crash).toBeUndefined()
      seen[accepted ? 'accepted' : 'refused']++
    })
    await fc.assert(property, { numRuns: parser.quick })
    // both sides of each check are reached
    expect(seen.accepted).toBeGreaterThan(parser.quick / 100)
    expect(seen.refused).toBeGreaterThan(parser.quick / 4)
  })
})
