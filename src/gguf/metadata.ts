/** Metadata by key and type. llama.cpp takes no other type than the one it asks for, not even a wider one: neither do we. */
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import type { GgufArray, GgufMetadata, GgufScalar, GgufScalarType, GgufValue } from './values.ts'

type NumberType = Exclude<GgufScalarType, 'string' | 'bool' | 'u64' | 'i64'>

export interface Keys {
  readonly file: string
  has(key: string): boolean
  /** Finite. */
  number(key: string, type: NumberType, otherwise?: number): number
  text(key: string, otherwise?: string): string
  boolean(key: string, otherwise?: boolean): boolean
  /** undefined when absent. */
  array(key: string, of: GgufScalarType): GgufArray | undefined
  fail(key: string, problem: string, code?: 'bad-input' | 'unsupported'): never
}

const described = (value: GgufValue): string =>
  value.type === 'array' ? `an array of ${value.of}` : `of type ${value.type}`

/** @throws QuantizeError bad-input, naming file and key: missing, of another type, not finite */
export const openMetadata = (metadata: GgufMetadata, file: string): Keys => {
  const fail: Keys['fail'] = (key, problem, code = 'bad-input') => {
    throw new QuantizeError(code, `${printable(file)}: key "${printable(key)}" ${problem}`)
  }
  const scalar = (key: string, type: GgufScalarType, otherwise: GgufScalar | undefined): GgufScalar => {
    const found = metadata.get(key)
    if (found === undefined) return otherwise ?? fail(key, `is missing (${type})`)
    return found.type === type ? found.value : fail(key, `is ${described(found)}; llama.cpp reads ${type} there`)
  }
  return {
    file,
    fail,
    has: key => metadata.has(key),
    number(key, type, otherwise) {
      const value = scalar(key, type, otherwise) as number
      return Number.isFinite(value) ? value : fail(key, `is ${value}`)
    },
    text: (key, otherwise) => scalar(key, 'string', otherwise) as string,
    boolean: (key, otherwise) => scalar(key, 'bool', otherwise) as boolean,
    array(key, of) {
      const found = metadata.get(key)
      if (found === undefined) return undefined
      if (found.type === 'array' && found.of === of) return found
      return fail(key, `is ${described(found)}; llama.cpp reads an array of ${of} there`)
    },
  }
}
