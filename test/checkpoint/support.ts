import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { type ErrorCode, QuantizeError } from '../../src/errors.ts'

/** The bytes of a file: header length, header as given (text or bytes), data. `claimed` lies about the length. */
export const fileBytes = (header: string | Uint8Array, data: number | Uint8Array = 0, claimed?: bigint): Uint8Array => {
  const json = typeof header === 'string' ? Buffer.from(header) : header
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(claimed ?? BigInt(json.length))
  return new Uint8Array(Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]))
}

/** Whether this throws one QuantizeError of the code, in one line of printable text; returns its message. */
export const refusal = (run: () => unknown, code: ErrorCode = 'bad-input'): string => {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(QuantizeError)
    expect((error as QuantizeError).code).toBe(code)
    expect((error as QuantizeError).message).not.toMatch(/\p{Cc}/u)
    return (error as QuantizeError).message
  }
  return expect.fail('nothing was thrown')
}

/**
 * Files of the tests' temporary folders that this process holds open. Node opens others when it pleases (pipes, epoll), and loses the script
 * of a worker that is ended while it starts.
 */
export const openDescriptors = (): readonly string[] => {
  if (!fs.existsSync('/proc/self/fd')) return []
  const folder = join(fs.realpathSync(tmpdir()), 'quantize-test-')
  return fs.readdirSync('/proc/self/fd').flatMap(descriptor => {
    try {
      const file = fs.readlinkSync(`/proc/self/fd/${descriptor}`)
      return file.startsWith(folder) ? [file] : []
    } catch {
      return [] // closed since: the listing's own
    }
  })
}
