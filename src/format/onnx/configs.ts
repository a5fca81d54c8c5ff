/** The files beside the data: the graph, config.json as transformers.js reads it, genai_config.json. */
import { graphFile, isHalf, onnxDtype, onnxFolder, planExternalData } from '../../checkpoint/onnx-plan.ts'
import type { ShardPlan } from '../../checkpoint/shard-plan.ts'
import type { AssembleFacts, Model, TensorInfo } from '../../contracts.ts'
import { encodeGraph } from '../../engine/ort/onnx.ts'
import { QuantizeError } from '../../errors.ts'
import { attentionsOf, decoderGraph, type PlacedTensor } from './graph.ts'
import { onnxLayout } from './layout.ts'

type Json = Readonly<Record<string, unknown>>

const json = (value: Json): string => `${JSON.stringify(value, null, 2)}\n`

/** Keys of transformers.js 3 and 4: which file to load, how many data files it has, and (3 only) the type of its cache. */
const transformersJs = (source: Json, dtype: string, half: boolean, dataFiles: number): Json => {
  const { kv_cache_dtype, ...others } = (source['transformers.js_config'] as Json | undefined) ?? {}
  return {
    ...others,
    dtype,
    use_external_data_format: { [graphFile(dtype)]: dataFiles },
    ...(half ? { kv_cache_dtype: { [dtype]: 'float16' } } : {}),
  }
}

/** Architectures that onnxruntime-genai runs as a plain decoder, by model_type. */
const genaiTypes: readonly unknown[] = ['llama', 'mistral']

const cacheNames = (prefix: string, of: string): Json => ({
  [`${of}_key_names`]: `${prefix}.%d.key`,
  [`${of}_value_names`]: `${prefix}.%d.value`,
})

/** As the builder of onnxruntime-genai 0.18 writes it (models/builders/base.py, make_genai_config). */
const genaiConfig = (source: Json, model: Model, file: string): Json => {
  const attentions = attentionsOf(model)
  const { heads, kvHeads, headDim } = attentions[0]
  const { bos_token_id, eos_token_id, pad_token_id } = source
  const end = eos_token_id ?? bos_token_id ?? 0
  return {
    model: {
      bos_token_id: bos_token_id ?? 0,
      context_length: model.maxPositions,
      decoder: {
        session_options: { log_id: 'onnxruntime-genai', provider_options: [] },
        filename: file,
        head_size: headDim,
        hidden_size: model.hidden,
        inputs: {
          input_ids: 'input_ids',
          attention_mask: 'attention_mask',
          ...cacheNames('past_key_values', 'past'),
        },
        outputs: { logits: 'logits', ...cacheNames('present', 'present') },
        num_attention_heads: heads,
        num_hidden_layers: attentions.length,
        num_key_value_heads: kvHeads,
      },
      eos_token_id: end,
      pad_token_id: pad_token_id ?? (Array.isArray(end) ? end[0] : end),
      type: source.model_type,
      vocab_size: model.vocabulary,
    },
    search: {
      diversity_penalty: 0,
      do_sample: false,
      early_stopping: true,
      length_penalty: 1,
      max_length: model.maxPositions,
      min_length: 0,
      no_repeat_ngram_size: 0,
      num_beams: 1,
      num_return_sequences: 1,
      past_present_share_buffer: true,
      repetition_penalty: 1,
      temperature: 1,
      top_k: 50,
      top_p: 1,
    },
  }
}

const inFiles = (plans: readonly ShardPlan[]): PlacedTensor[] =>
  plans.flatMap(({ file, tensors }) =>
    tensors.map(tensor => ({ ...tensor, file: file.slice(file.lastIndexOf('/') + 1) })),
  )

const tensorsOf = ({ rest, linears }: AssembleFacts): readonly TensorInfo[] => [...rest, ...linears.flatMap(onnxLayout)]

/**
 * Format.assemble: `onnx/model_q4.onnx`, whose tensors lie where planExternalData puts them, config.json and genai_config.json.
 * @throws QuantizeError unsupported without an architecture, or for one that the graph's operators do not compute
 */
export const assembleOnnx = (
  sourceConfig: Json | undefined,
  facts: AssembleFacts,
): ReadonlyMap<string, string | Uint8Array> => {
  const { model, linears, version, shardBytes } = facts
  if (!model || !sourceConfig)
    throw new QuantizeError(
      'unsupported',
      'format onnx writes the graph of the model, which takes a config.json of an architecture that is known here',
    )
  const tensors = tensorsOf(facts)
  const plans = planExternalData(tensors, shardBytes)
  const dtype = onnxDtype(tensors)
  const half = isHalf(tensors)
  const file = `${onnxFolder}/${graphFile(dtype)}`
  const graph = decoderGraph(model, linears, inFiles(plans), half)
  return new Map<string, string | Uint8Array>([
    [file, encodeGraph(graph, { name: 'quantize-cli', version })],
    [
      'config.json',
      json({ ...sourceConfig, 'transformers.js_config': transformersJs(sourceConfig, dtype, half, plans.length) }),
    ],
    ...(genaiTypes.includes(sourceConfig.model_type)
      ? [['genai_config.json', json(genaiConfig(sourceConfig, model, file))] as const]
      : []),
  ])
}
