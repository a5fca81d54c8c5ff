/** quanto_qmap.json: what each linear is quantized to. The loader reads nothing else; config.json stays the source's. */
import type { AssembleFacts, Bits, Configs, GridName, LinearScheme } from '../contracts.ts'
import type { Dtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { isObject } from '../io/is-object.ts'
import { printable } from '../io/printable.ts'
import { type Fields, jsonText, shownValue } from './config-fields.ts'

export interface QuantoKind {
  readonly name: string
  readonly grid: GridName
  readonly bits: Bits
  /** Of codes that are not packed. */
  readonly dtype: Dtype
}

const kinds: readonly QuantoKind[] = [
  { name: 'qint2', grid: 'int', bits: 2, dtype: 'U8' },
  { name: 'qint4', grid: 'int', bits: 4, dtype: 'U8' },
  { name: 'qint8', grid: 'int', bits: 8, dtype: 'I8' },
  { name: 'qfloat8_e4m3fn', grid: 'fp8', bits: 8, dtype: 'F8_E4M3' },
  { name: 'qfloat8_e5m2', grid: 'fp8-e5m2', bits: 8, dtype: 'F8_E5M2' },
]

export const kindOf = ({ grid, bits }: Pick<LinearScheme, 'grid' | 'bits'>): QuantoKind | undefined =>
  kinds.find(kind => kind.grid === grid && kind.bits === bits)

const fileName = 'quanto_qmap.json'

const wrong = (module: string, field: string, value: unknown, expected: string): QuantizeError =>
  new QuantizeError(
    'bad-input',
    `${fileName}: ${field} of ${printable(module)} is ${shownValue(value)}; expected ${expected}`,
  )

/** @returns undefined for a module that stays as it is */
const kindIn = (module: string, entry: unknown): QuantoKind | undefined => {
  if (!isObject(entry)) throw wrong(module, 'the entry', entry, 'an object')
  const { weights, activations } = entry
  if (activations !== 'none' && activations !== undefined)
    throw new QuantizeError(
      'unsupported',
      `${fileName}: activations of ${printable(module)} are ${shownValue(activations)}; quantized activations of quanto cannot be read, "none" can`,
    )
  if (weights === 'none') return undefined
  const kind = kinds.find(({ name }) => name === weights)
  if (kind) return kind
  if (weights === 'qfloat8_e4m3fnuz')
    throw new QuantizeError(
      'unsupported',
      `${fileName}: weights of ${printable(module)} are ${weights}, which cannot be read; qfloat8_e4m3fn can`,
    )
  throw wrong(module, 'weights', weights, `one of ${kinds.map(({ name }) => name).join(', ')}, none`)
}

/** The quantized modules; undefined when there is no map. @throws QuantizeError bad-input, unsupported */
export const quantoMap = (configs: Configs): ReadonlyMap<string, QuantoKind> | undefined => {
  const map = configs[fileName]
  if (map === undefined) return undefined
  if (!isObject(map)) throw new QuantizeError('bad-input', `${fileName} is ${shownValue(map)}; expected an object`)
  const found = new Map<string, QuantoKind>()
  for (const [module, entry] of Object.entries(map)) {
    const kind = kindIn(module, entry)
    if (kind) found.set(module, kind)
  }
  return found
}

/** Format.assemble. */
export const assembleQuanto = (
  sourceConfig: Fields | undefined,
  { linears }: AssembleFacts,
): ReadonlyMap<string, string> => {
  const entries = linears.map(linear => [linear.name, { weights: kindOf(linear)!.name, activations: 'none' }])
  const files = new Map([[fileName, jsonText(Object.fromEntries(entries))]])
  if (sourceConfig) files.set('config.json', jsonText(sourceConfig))
  return files
}
