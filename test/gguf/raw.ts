/** GGUF files put together part by part, so that any part may lie. Written without the code under test. */

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)))
  return bytes
}

export const text = (value: string | Uint8Array, claimed?: number | bigint): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(claimed ?? bytes.length), bytes])
}

/** A key with a value of any type. */
export const pair = (key: string, type: number, value: Uint8Array): Buffer =>
  Buffer.concat([text(key), u32(type), value])

/** An array of `type`, of as many elements as given or `claimed`. */
export const list = (key: string, type: number, elements: readonly Uint8Array[], claimed?: number | bigint): Buffer =>
  pair(key, 9, Buffer.concat([u32(type), u64(claimed ?? elements.length), ...elements]))

/** @param dimensions the one that lies together first */
export const info = (
  name: string | Uint8Array,
  dimensions: readonly (number | bigint)[],
  type: number,
  offset: number | bigint,
  rank = dimensions.length,
): Buffer => Buffer.concat([text(name), u32(rank), ...dimensions.map(u64), u32(type), u64(offset)])

export interface Parts {
  readonly magic?: string
  readonly version?: number
  readonly keys?: readonly Uint8Array[]
  readonly infos?: readonly Uint8Array[]
  readonly keyCount?: number | bigint
  readonly tensorCount?: number | bigint
  readonly alignment?: number
  readonly data?: number | Uint8Array
}

/** Length of data may be given instead of data. */
export const ggufFile = ({
  magic = 'GGUF',
  version = 3,
  keys = [],
  infos = [],
  alignment = 32,
  ...rest
}: Parts): Buffer => {
  const { keyCount = keys.length, tensorCount = infos.length, data = 0 } = rest
  const header = Buffer.concat([Buffer.from(magic), u32(version), u64(tensorCount), u64(keyCount), ...keys, ...infos])
  const padding = Buffer.alloc((alignment - (header.length % alignment)) % alignment)
  return Buffer.concat([header, padding, typeof data === 'number' ? Buffer.alloc(data) : data])
}
