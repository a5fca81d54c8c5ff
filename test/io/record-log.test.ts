import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { QuantizeError } from '../../src/errors.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { createLog, openLog } from '../../src/io/record-log.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let count = 0
const records = [{ a: 1 }, { text: 'line\nbreak, ü' }, [null, 0.1], 'last']

const written = (): string => {
  const path = join(folder, `log${count++}`)
  const log = createLog(path, nodeFiles)
  log.append(records.slice(0, 1))
  log.append(records.slice(1))
  log.close()
  return path
}

/** What a reader finds, then what it finds after one more record. */
const readTwice = (path: string): readonly [readonly unknown[], readonly unknown[]] => {
  const first = openLog(path, nodeFiles)
  first.log.append(['more'])
  first.log.close()
  const second = openLog(path, nodeFiles)
  second.log.close()
  return [first.records, second.records]
}

describe('a record log', () => {
  it('gives back what was appended', () => {
    expect(readTwice(written())).toEqual([records, [...records, 'more']])
  })

  it('cut off at any byte gives back the whole records before, and takes new ones behind them', () => {
    const bytes = fs.readFileSync(written())
    const ends = [...bytes.entries()].filter(([, byte]) => byte === 0x0a).map(([at]) => at + 1)
    expect(ends).toHaveLength(records.length)
    for (let length = 0; length <= bytes.length; length++) {
      const path = join(folder, 'cut')
      fs.writeFileSync(path, bytes.subarray(0, length))
      const whole = records.slice(0, ends.filter(end => end <= length).length)
      expect(readTwice(path)).toEqual([whole, [...whole, 'more']])
    }
  })

  it('with any bit flipped gives back the records before it', () => {
    const bytes = fs.readFileSync(written())
    const path = join(folder, 'flipped')
    for (let bit = 0; bit < 8 * bytes.length; bit += 5) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] ^= 1 << (bit & 7)
      fs.writeFileSync(path, flipped)
      const before = bytes.subarray(0, bit >> 3).filter(byte => byte === 0x0a).length
      expect(readTwice(path)).toEqual([records.slice(0, before), [...records.slice(0, before), 'more']])
    }
  })

  it('is not started over a file, and not read where it is too large', () => {
    const path = written()
    expect(() => createLog(path, nodeFiles)).toThrow(/exists already/)
    const large = { ...nodeFiles, statOpen: () => ({ bytes: 2 ** 29 }) }
    expect(() => openLog(path, large)).toThrow(QuantizeError)
  })
})
