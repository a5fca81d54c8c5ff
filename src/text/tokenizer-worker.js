/**
 * The worker in which a stranger's tokenizer.json lives: its patterns are compiled and run here only (confined.ts ends the thread when
 * one of them does not come to an end). Plain JavaScript, since a worker thread does not inherit the loader that runs TypeScript from src.
 *
 * { json, config } → { vocabularySize }, { text } → { ids }; whatever the library throws → { problem }, one line.
 */
import { parentPort } from 'node:worker_threads'
import { Tokenizer } from '@huggingface/tokenizers'
import { useUnicodeWhitespace } from './whitespace.js'

const maxId = 2 ** 31 - 1 // ids are kept as int32
const optionalFields = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] }
/** Two fields of tokenizer_config.json that the library obeys and tokenizer.json's own runtime does not know. */
const otherRuntime = { remove_space: false, do_lowercase_and_remove_accent: false }

let tokenizer

const isId = id => Number.isInteger(id) && id >= 0 && id <= maxId

const checkedId = (id, token) => {
  if (isId(id)) return id
  throw new Error(`the id of ${JSON.stringify(token)} is ${JSON.stringify(id)}, not an integer from 0 to ${maxId}`)
}

/** From the library's own map: get_vocab counts up to the largest id, one by one. Added tokens are in it too. */
const vocabularySize = () => {
  let size = 0
  for (const [token, id] of tokenizer.model.tokens_to_ids) size = Math.max(size, checkedId(id, token) + 1)
  return size
}

const load = (json, config) => {
  const settings = config === undefined ? {} : { ...JSON.parse(config), ...otherRuntime }
  tokenizer = new Tokenizer({ ...optionalFields, ...JSON.parse(json) }, settings)
  useUnicodeWhitespace(tokenizer.pre_tokenizer)
  return { vocabularySize: vocabularySize() }
}

/** undefined stands among the ids where neither the piece of text nor an unknown token has one. */
const encode = text => {
  const { ids, tokens } = tokenizer.encode(text, { add_special_tokens: false })
  const wrong = ids.findIndex(id => !isId(id))
  if (wrong >= 0) throw new Error(`it gives no token id for ${JSON.stringify(tokens[wrong])}`)
  return { ids: Int32Array.from(ids) }
}

/** The first line, bounded: a parser may quote the whole file. */
const firstLine = error => {
  const message = error instanceof Error ? error.message : String(error)
  return message.split('\n')[0].slice(0, 200)
}

const answer = ({ json, config, text }) => {
  try {
    return text === undefined ? load(json, config) : encode(text)
  } catch (error) {
    return { problem: firstLine(error) }
  }
}

parentPort.on('message', request => parentPort.postMessage(answer(request)))
