import type { TensorSource } from '../contracts.ts'
import { fromFloat32, toFloat32 } from '../dtype/convert.ts'
import { type Dtype, dtypeBits, type WeightDtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { multiply } from '../io/size.ts'

/** Float values as bytes of another dtype, to nearest even. @throws QuantizeError unsupported when a finite one is too large for it */
const cast = (bytes: Uint8Array, { file, name, dtype }: TensorSource, into: WeightDtype): Uint8Array => {
  const values = toFloat32(bytes, dtype)
  const stored = fromFloat32(values, into)
  const back = into === 'F32' ? values : toFloat32(stored, into)
  const lost = back.findIndex((value, i) => !Number.isFinite(value) && Number.isFinite(values[i]))
  if (lost < 0) return stored
  throw new QuantizeError(
    'unsupported',
    `${printable(file)}: tensor ${printable(name)} holds ${values[lost]}, more than ${into} can hold; --dtype bf16 or f32 can`,
    { lasting: true },
  )
}

/** The tensor as another dtype stores it. Only whole elements may be read. @param source of a float dtype where `dtype` differs from its own */
export const castSource = (source: TensorSource, dtype: Dtype): TensorSource => {
  if (dtype === source.dtype) return source
  const [from, to] = [dtypeBits[source.dtype] / 8, dtypeBits[dtype] / 8]
  const place = (byte: number, size: number, into: number): number => multiply(byte / size, into, source.name)
  const bytes = place(source.bytes, from, to)
  return {
    ...source,
    dtype,
    bytes,
    read(start = 0, end = bytes, into) {
      const stored = cast(source.read(place(start, to, from), place(end, to, from)), source, dtype as WeightDtype)
      into?.set(stored)
      return into ?? stored
    },
  }
}
