import fs from 'node:fs'
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

export const openDescriptors = (): number =>
  fs.existsSync('/proc/self/fd') ? fs.readdirSync('/proc/self/fd').length : 0
