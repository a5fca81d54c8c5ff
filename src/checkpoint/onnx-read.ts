/**
 * The tensors of an ONNX model: initializers in external data files (onnx.proto, TensorProto.data_location = EXTERNAL), as we write them. The
 * graph's own nodes are not looked at. A stranger's file: every length, place and name is checked before use.
 */
import { basename, dirname, join } from 'node:path'
import { fromBinary } from '@bufbuild/protobuf'
import { ModelProtoSchema, type TensorProto, TensorProto_DataLocation } from 'onnx-buf'
import type { Checkpoint, TensorSource } from '../contracts.ts'
import type { Dtype } from '../dtype/dtype.ts'
import { QuantizeError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { checkedMember } from '../io/member.ts'
import { printable } from '../io/printable.ts'
import { add, tensorBytes } from '../io/size.ts'
import { onnxFolder } from './onnx-plan.ts'
import { type OpenFile, openFile, tensorSource } from './tensor-source.ts'

/** Graphs hold no weights: those of the largest published decoders take a few MB. */
const maxGraphBytes = 256 * 2 ** 20
/** Names of external data files of one model: transformers.js reads 100. */
const maxDataFiles = 1000

const dtypesByNumber: Readonly<Record<number, Dtype>> = {
  1: 'F32',
  2: 'U8',
  3: 'I8',
  6: 'I32',
  7: 'I64',
  9: 'BOOL',
  10: 'F16',
  16: 'BF16',
}

const refuse = (path: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(path)}: ${problem}`)
}

const readGraph = (path: string, files: Files): readonly TensorProto[] => {
  const file = openFile(files, path)
  try {
    const { bytes } = files.statOpen(file.descriptor())
    if (bytes > maxGraphBytes)
      refuse(path, `has ${bytes} bytes; a graph with its weights outside has at most ${maxGraphBytes}`)
    const content = new Uint8Array(bytes)
    if (files.readAt(file.descriptor(), content, 0) < bytes) refuse(path, 'ended while it was read')
    return fromBinary(ModelProtoSchema, content).graph?.initializer ?? refuse(path, 'holds no graph')
  } catch (error) {
    if (error instanceof QuantizeError) throw error
    return refuse(path, `is not an ONNX model: ${printable(error instanceof Error ? error.message : String(error))}`)
  } finally {
    file.close()
  }
}

/** Where an external tensor lies. */
interface Place {
  readonly location: string
  readonly offset: number
  readonly length: number | undefined
}

const placeOf = (tensor: TensorProto, path: string): Place => {
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]))
  const number = (key: string): number | undefined => {
    const text = entries.get(key)
    if (text === undefined) return undefined
    if (!/^\d{1,15}$/.test(text))
      refuse(path, `tensor "${printable(tensor.name)}": ${key} is ${printable(text.slice(0, 40))}`)
    return Number(text)
  }
  const location = entries.get('location') ?? ''
  if (location === '' || basename(location) !== location || location === '..' || location === '.')
    refuse(path, `tensor "${printable(tensor.name)}" lies in ${printable(location)}, which is no plain file name`)
  return { location, offset: number('offset') ?? 0, length: number('length') }
}

/** The graph of a folder as we write it; undefined when there is none. @throws QuantizeError bad-input for several */
export const findOnnx = (folder: string, files: Files): string | undefined => {
  const inside = join(folder, onnxFolder)
  if (files.stat(inside)?.kind !== 'folder') return undefined
  const graphs = files.list(inside).filter(name => name.endsWith('.onnx'))
  if (graphs.length > 1) refuse(inside, `holds ${graphs.length} graphs; name one: ${printable(graphs.join(', '))}`)
  return graphs.length === 1 ? join(inside, graphs[0]) : undefined
}

/**
 * @param path of the graph
 * @param folder where config.json and the rest stand
 * @throws QuantizeError bad-input for a damaged graph, or a tensor that its data file does not hold whole
 */
export const openOnnx = (path: string, folder: string, files: Files): Checkpoint => {
  const opened = new Map<string, { readonly file: OpenFile; readonly bytes: number }>()
  const close = (): void => {
    for (const { file } of opened.values()) file.close()
  }
  const dataFile = (name: string) => {
    const known = opened.get(name)
    if (known) return known
    if (opened.size >= maxDataFiles) refuse(path, `names more than ${maxDataFiles} data files`)
    const file = openFile(files, checkedMember(files, dirname(path), name))
    opened.set(name, { file, bytes: 0 })
    const found = { file, bytes: files.statOpen(file.descriptor()).bytes }
    opened.set(name, found)
    return found
  }
  try {
    const tensors = new Map<string, TensorSource>()
    for (const tensor of readGraph(path, files)) {
      if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL) continue // shapes and other constants of the graph
      const what = `${path}: tensor "${printable(tensor.name)}"`
      const dtype =
        dtypesByNumber[tensor.dataType] ??
        refuse(path, `${printable(tensor.name)} is of type ${tensor.dataType}, which is not read`)
      const shape = tensor.dims.map(Number)
      if (shape.some(size => !Number.isSafeInteger(size) || size < 0))
        refuse(path, `${printable(tensor.name)} has shape [${shape}]`)
      if (tensors.has(tensor.name)) refuse(path, `tensor "${printable(tensor.name)}" comes twice`)
      const bytes = tensorBytes(shape, dtype, what)
      const { location, offset, length } = placeOf(tensor, path)
      const { file, bytes: size } = dataFile(location)
      if (length !== undefined && length !== bytes)
        refuse(path, `tensor "${printable(tensor.name)}" has ${length} bytes, its shape [${shape}] takes ${bytes}`)
      const end = add(offset, bytes, what)
      if (end > size) refuse(file.path, `has ${size} bytes, and tensor "${printable(tensor.name)}" would end at ${end}`)
      tensors.set(tensor.name, tensorSource(files, file, { name: tensor.name, dtype, shape, bytes, offset }))
    }
    if (tensors.size === 0) refuse(path, 'holds no weights in external data')
    const inFolder = (name: string): string => (dirname(path) === folder ? name : `${basename(dirname(path))}/${name}`)
    const names = [basename(path), ...opened.keys()].map(inFolder)
    return { path, folder, files: names.sort(), tensors, metadata: {}, close }
  } catch (error) {
    close()
    throw error
  }
}
