import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { families, rows, tokenizerJson, vocabularyFile, vocabularyKeys } from '../../fixtures/gguf/vocabularies.ts'
import { readGgufHeader } from '../../src/gguf/header.ts'
import { hfTokenizerOf } from '../../src/gguf/tokenizer/from-gguf.ts'
import { mergesOf, mergesReachAll, scoresOf, unlistedMerges } from '../../src/gguf/tokenizer/merges.ts'
import { preTokenizerNode, preTokenizers, recognisePreTokenizers } from '../../src/gguf/tokenizer/pre-tokenizers.ts'
import type { TokenizerConfigs } from '../../src/gguf/tokenizer/special.ts'
import { readTokenizerFiles, tokenizerMetadata } from '../../src/gguf/tokenizer/to-gguf.ts'
import { arrayOf, type GgufMetadata, type GgufValue, single } from '../../src/gguf/values.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { loadTokenizer } from '../../src/text/tokenizer.ts'
import { refusal } from '../checkpoint/support.ts'
import { memoryFiles } from '../fuzz/memory-files.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const fixture = (path: string) => JSON.parse(readFileSync(new URL(`../../fixtures/${path}`, import.meta.url), 'utf8'))

/** fixtures/tokenizer/make-tokenizers.py: ids by the tokenizers package. */
const golden: { texts: string[]; ids: Record<string, number[][]> } = fixture('tokenizer/golden.json')
/** fixtures/gguf/make.py: ids by llama.cpp from the file of this hash. */
const byLlamaCpp: Record<string, { sha256: string; ids: number[][] }> = fixture('gguf/llama-cpp.json')

/** Texts that begin with a space or go on after a special token: llama.cpp puts a space there, Metaspace does not. */
const otherwise: Record<string, number[]> = { metaspace: [1, 2, 7, 14, 16] }

const withoutNulls = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

describe.each(families)('%s', family => {
  const { metadata, notes } = vocabularyKeys(family)
  const back = hfTokenizerOf(metadata, 'm.gguf')

  it('is the file that llama.cpp was given', () => {
    expect(createHash('sha256').update(vocabularyFile(family)).digest('hex')).toBe(byLlamaCpp[family].sha256)
  })

  it('splits text in llama.cpp as it does in Python, or says where not', () => {
    const wrong = golden.texts.flatMap((_, i) =>
      golden.ids[family][i].join() === byLlamaCpp[family].ids[i].join() ? [] : [i],
    )
    expect(wrong).toEqual(otherwise[family] ?? [])
    expect(notes.some(note => /puts a space before text/.test(note))).toBe(wrong.length > 0)
  })

  it('comes back as a tokenizer.json that splits text as llama.cpp does', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(back.tokenizer))
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(back.config))
    const tokenizer = await loadTokenizer({ folder }, nodeFiles)
    try {
      for (const [i, text] of golden.texts.entries())
        expect([...(await tokenizer.encode(text))], JSON.stringify(text)).toEqual(byLlamaCpp[family].ids[i])
    } finally {
      await tokenizer.close()
    }
  })

  it('is stable there and back again', () => {
    const again = tokenizerMetadata({ json: back.tokenizer, tokenizer: back.config, file: 'tokenizer.json' }, rows)
    const plain = (keys: GgufMetadata) =>
      new Map([...keys].map(([key, value]) => [key, value.type === 'array' ? value.values() : value.value]))
    const expected = plain(metadata)
    // what llama.cpp takes where SentencePiece's keys are missing
    const defaults = metadata.has('tokenizer.ggml.scores') ? { bos: 1, eos: 2 } : {}
    for (const [name, id] of Object.entries(defaults)) expected.set(`tokenizer.ggml.${name}_token_id`, id)
    expect(plain(again.metadata)).toEqual(expected)
  })

  it('keeps its parts', () => {
    const source = tokenizerJson(family) as Record<string, Record<string, unknown>>
    const found = withoutNulls(back.tokenizer) as Record<string, Record<string, unknown>>
    expect(found.model.vocab).toEqual(source.model.vocab)
    expect(found.pre_tokenizer ?? null).toEqual(family === 'metaspace' ? null : source.pre_tokenizer)
    if (family.startsWith('llama2')) expect(found.normalizer).toEqual(source.normalizer)
    if (!['llama2', 'metaspace'].includes(family)) expect(found.model.merges).toEqual(source.model.merges)
  })

  it('survives the file', () => {
    const { files } = memoryFiles({ 'm.gguf': vocabularyFile(family) })
    const read = readGgufHeader(files, files.open('m.gguf', 'read'), 'm.gguf')
    expect(hfTokenizerOf(read.metadata, 'm.gguf')).toEqual(back)
  })
})

describe('tiny-llama', () => {
  const files = readTokenizerFiles(new URL('../../fixtures/tiny-llama', import.meta.url).pathname, nodeFiles)

  it('gives its special tokens', () => {
    const { metadata, notes } = tokenizerMetadata(files, 1024)
    const scalars = [...metadata].flatMap(([key, value]) => (value.type === 'array' ? [] : [[key, value.value]]))
    expect(Object.fromEntries(scalars)).toEqual({
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'gpt-2',
      'tokenizer.ggml.bos_token_id': 0,
      'tokenizer.ggml.eos_token_id': 0,
      'tokenizer.ggml.add_bos_token': false,
      'tokenizer.ggml.add_eos_token': false,
    })
    expect(notes).toEqual([])
  })

  it('is refused where the model has fewer tokens', () => {
    expect(refusal(() => tokenizerMetadata(files, 1000))).toMatch(/token of id 1023, but the model has 1000 tokens/)
  })
})

describe('pre-tokenizers', () => {
  it.each(preTokenizers.map(known => [known.names[0], known] as const))('%s is recognised', (name, known) => {
    const found = recognisePreTokenizers(preTokenizerNode(known))
    expect(found.find(({ ignoreMerges }) => ignoreMerges === known.ignoreMerges)?.names).toContain(
      name === 'glm4' ? 'llama-bpe' : name, // which cuts alike
    )
  })

  it('no name stands for two', () => {
    const names = preTokenizers.flatMap(known => known.names)
    expect(new Set(names).size).toBe(names.length)
  })

  it('takes line ends spelled out, and matches that are kept by inversion', () => {
    const [llama3] = preTokenizers
    const [{ split }] = llama3.steps as { split: string }[]
    const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
    const pattern = { Regex: split.replaceAll('\\r', '\r').replaceAll('\\n', '\n') }
    const inverted = { type: 'Split', pattern, behavior: 'Removed', invert: true }
    expect(recognisePreTokenizers({ type: 'Sequence', pretokenizers: [inverted, bytes] })).toContain(llama3)
  })
})

type Change = (json: ReturnType<typeof fixture>) => void

const changed = (family: string, change: Change, configs: TokenizerConfigs = {}) => {
  const json = structuredClone(tokenizerJson(family))
  change(json)
  return tokenizerMetadata({ json, file: 't/tokenizer.json', ...configs }, rows)
}

describe('what llama.cpp does not have is refused in one line', () => {
  it.each<[string, string, Change, RegExp, 'bad-input'?]>([
    ['Unigram', 'gpt2', json => (json.model.type = 'Unigram'), /its model is Unigram; only BPE/],
    ['suffixes of words', 'gpt2', json => (json.model.end_of_word_suffix = '</w>'), /model\.end_of_word_suffix is set/],
    ['dropout', 'gpt2', json => (json.model.dropout = 0.1), /model\.dropout is set/],
    [
      'an unknown pattern',
      'llama3',
      json => (json.pre_tokenizer.pretokenizers[0].pattern.Regex = '\\w+'),
      /no name for its pre_tokenizer; known: llama-bpe, .*smollm/,
    ],
    ['a prefix space', 'gpt2', json => (json.pre_tokenizer.add_prefix_space = true), /no name for its pre_tokenizer/],
    ['a normalizer', 'gpt2', json => (json.normalizer = { type: 'Lowercase' }), /has a normalizer/],
    ['no bytes', 'llama2', json => (json.model.byte_fallback = false), /has no byte_fallback/],
    [
      'a precompiled map',
      'llama2',
      json => json.normalizer.normalizers.unshift({ type: 'Precompiled' }),
      /no tokenizer with its normalizer/,
    ],
    [
      'words by spaces',
      'llama2',
      json => (json.pre_tokenizer = { type: 'Whitespace' }),
      /no tokenizer with its normalizer/,
    ],
    ['a missing byte', 'llama2', json => delete json.model.vocab['<0x41>'], /no token <0x41>/, 'bad-input'],
    ['an id twice', 'gpt2', json => (json.model.vocab['!'] = 2), /id 2 is given to two tokens/, 'bad-input'],
    ['a negative id', 'gpt2', json => (json.model.vocab['!'] = -1), /the id of token "!"/, 'bad-input'],
    ['a merge of three', 'gpt2', json => json.model.merges.push('a b c'), /merge 143 is no pair/, 'bad-input'],
    [
      'a merge of strangers',
      'gpt2',
      json => json.model.merges.push(['a', '東']),
      /merge 143 has the token "東"/,
      'bad-input',
    ],
    [
      'an added token of another id',
      'gpt2',
      json => (json.added_tokens[0].id = 5),
      /added token "<\|end\|>" has id 5/,
      'bad-input',
    ],
    ['no model', 'gpt2', json => delete json.model, /has no model/, 'bad-input'],
  ])('%s', (_, family, change, message, code = 'unsupported' as never) => {
    const line = refusal(() => changed(family, change), code)
    expect(line).toMatch(message)
    expect(line).toMatch(/^t\/tokenizer\.json: /)
  })

  it('two tokens of one text', () => {
    const twice: Change = json => {
      json.added_tokens.push({ id: 450, content: '▁t', normalized: true })
      json.added_tokens.push({ id: 451, content: ' t', normalized: false })
      json.model.vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([token]) => token !== '▁t'))
      json.model.merges = []
    }
    const free = (json: ReturnType<typeof fixture>): void => {
      for (const [token, id] of Object.entries(json.model.vocab)) if (Number(id) >= 450) delete json.model.vocab[token]
      twice(json)
    }
    expect(refusal(() => changed('llama2', free))).toMatch(/two tokens are spelled " t"/)
  })
})

describe('what differs is noted', () => {
  it.each<[string, string, Change, RegExp]>([
    ['NFC', 'llama3', json => (json.normalizer = { type: 'NFC' }), /does not normalize text \(NFC\)/],
    [
      'stripped spaces',
      'gpt2',
      json => (json.added_tokens[0].lstrip = true),
      /1 added tokens \("<\|end\|>"…\) have lstrip/,
    ],
    ['pairs without a merge', 'llama2', json => json.model.merges.splice(0, 1), /also merges \d+ pairs/],
  ])('%s', (_, family, change, message) => {
    expect(changed(family, change).notes).toContainEqual(expect.stringMatching(message))
  })

  it('a word that is a token is taken whole, where that may matter', () => {
    const whole: Change = json => (json.model.ignore_merges = true)
    // all tokens are made by merges: the same ids
    expect(changed('gpt2', whole).metadata.get('tokenizer.ggml.pre')).toEqual(single('string', 'gpt-2'))
    const unreachable: Change = json => {
      whole(json)
      json.model.merges = json.model.merges.slice(1)
    }
    expect(refusal(() => changed('gpt2', unreachable), 'unsupported')).toMatch(/ignore_merges is true.*gpt-2/)
    const merged: Change = json => {
      json.model.ignore_merges = false
      json.model.merges = json.model.merges.slice(1)
    }
    expect(changed('llama3', merged).metadata.get('tokenizer.ggml.pre')).toEqual(single('string', 'smaug-bpe'))
  })
})

describe('special tokens', () => {
  const unchanged: Change = () => {}
  const scalar = (keys: GgufMetadata, name: string) => (keys.get(name) as { value: unknown } | undefined)?.value
  const bosFirst: Change = json =>
    (json.post_processor = {
      type: 'Sequence',
      processors: [
        { type: 'ByteLevel' },
        { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<|end|>' } }, { Sequence: { id: 'A' } }] },
      ],
    })

  it('come from tokenizer_config.json, then config.json, then generation_config.json', () => {
    const configs: TokenizerConfigs = {
      tokenizer: { bos_token: { content: '<|end|>' }, eos_token: 'not a token' },
      model: { bos_token_id: 5, eos_token_id: [7, 8] },
      generation: { pad_token_id: 9, eos_token_id: [8, 7] },
    }
    const { metadata } = changed('gpt2', unchanged, configs)
    const ids = ['bos', 'eos', 'padding', 'eot', 'unknown'].map(name =>
      scalar(metadata, `tokenizer.ggml.${name}_token_id`),
    )
    expect(ids).toEqual([0, 7, 9, 8, undefined])
  })

  it('beyond the vocabulary are left out', () => {
    const { metadata } = changed('gpt2', unchanged, { model: { pad_token_id: rows, eos_token_id: -1 } })
    expect([...metadata.keys()].filter(key => key.endsWith('_token_id'))).toEqual([])
  })

  it('are added where the post_processor adds them', () => {
    const { metadata, notes } = changed('gpt2', bosFirst)
    expect(scalar(metadata, 'tokenizer.ggml.add_bos_token')).toBe(true)
    expect(scalar(metadata, 'tokenizer.ggml.add_eos_token')).toBe(false)
    expect(scalar(metadata, 'tokenizer.ggml.bos_token_id')).toBe(0)
    expect(notes).toEqual([])
    const back = hfTokenizerOf(metadata, 'm.gguf')
    expect(back.tokenizer.post_processor).toMatchObject({
      single: [{ SpecialToken: { id: '<|end|>' } }, { Sequence: { id: 'A' } }],
      special_tokens: { '<|end|>': { ids: [0] } },
    })
    expect(back.config).toMatchObject({ bos_token: '<|end|>' })
  })

  it('that llama.cpp cannot add are noted', () => {
    const { metadata, notes } = changed('gpt2', bosFirst, { model: { bos_token_id: 3 } })
    expect(scalar(metadata, 'tokenizer.ggml.add_bos_token')).toBe(false)
    expect(notes).toEqual([expect.stringMatching(/its post_processor adds <\|end\|>; llama\.cpp can add only one bos/)])
  })

  it('bring their chat templates along, the file before the config', () => {
    const templates = [
      { name: 'default', template: 'd' },
      { name: 'tool_use', template: 't' },
    ]
    const both = changed('gpt2', unchanged, { tokenizer: { chat_template: templates } }).metadata
    expect(scalar(both, 'tokenizer.chat_template')).toBe('d')
    expect(scalar(both, 'tokenizer.chat_template.tool_use')).toBe('t')
    const { metadata } = changed('gpt2', unchanged, { tokenizer: { chat_template: 'c' }, chatTemplate: 'file' })
    expect(scalar(metadata, 'tokenizer.chat_template')).toBe('file')
    expect(hfTokenizerOf(metadata, 'm.gguf').chatTemplate).toBe('file')
  })
})

describe('keys of a GGUF', () => {
  const keys = (family: string, changes: Record<string, GgufValue | undefined>): GgufMetadata => {
    const metadata = new Map(vocabularyKeys(family).metadata)
    for (const [name, value] of Object.entries(changes)) {
      if (value) metadata.set(`tokenizer.ggml.${name}`, value)
      else metadata.delete(`tokenizer.ggml.${name}`)
    }
    return metadata
  }

  it.each<[string, string, Record<string, GgufValue | undefined>, RegExp, 'unsupported'?]>([
    ['no model', 'gpt2', { model: undefined }, /ggml\.model" is missing \(string\)/],
    [
      'another model',
      'gpt2',
      { model: single('string', 'bert') },
      /"bert" is not read; gpt2 and llama are/,
      'unsupported',
    ],
    [
      'another pre-tokenizer',
      'gpt2',
      { pre: single('string', 'new') },
      /"new" is not read; known: .*qwen2/,
      'unsupported',
    ],
    ['no tokens', 'gpt2', { tokens: undefined }, /tokens" is missing/],
    ['tokens of numbers', 'gpt2', { tokens: arrayOf('u8', [1]) }, /is an array of u8/],
    ['a token twice', 'gpt2', { tokens: arrayOf('string', ['a', 'b', 'a']) }, /has "a" twice/],
    ['few types', 'gpt2', { token_type: arrayOf('i32', [1]) }, /has 1 types for 460 tokens/],
    ['no merges', 'gpt2', { merges: undefined }, /merges" is missing/],
    ['a merge of one', 'gpt2', { merges: arrayOf('string', ['a']) }, /has an element, 0, that is no pair/],
    ['a merge of strangers', 'gpt2', { merges: arrayOf('string', ['x 東']) }, /that is no pair of tokens/],
    ['no scores', 'llama2', { scores: undefined }, /has 0 scores for 460 tokens/],
    ['a score of NaN', 'llama2', { scores: arrayOf('f32', Array(460).fill(Number.NaN)) }, /that is NaN/],
    ['an id beyond', 'gpt2', { eos_token_id: single('u32', 460) }, /eos_token_id" is 460, but there are 460 tokens/],
    ['an id of another type', 'gpt2', { eos_token_id: single('i32', 1) }, /is of type i32; llama\.cpp reads u32/],
    [
      'bos without one',
      'gpt2',
      { add_bos_token: single('bool', true) },
      /is true, but there is no tokenizer\.ggml\.bos_token_id/,
    ],
  ])('%s is refused', (_, family, changes, message, code = 'bad-input' as never) => {
    const line = refusal(() => hfTokenizerOf(keys(family, changes), 'm.gguf'), code)
    expect(line).toMatch(message)
    expect(line).toMatch(/^m\.gguf: key "tokenizer\.ggml\./)
  })

  it('a token too long to cut is refused', () => {
    const tokens = vocabularyKeys('llama2').metadata.get('tokenizer.ggml.tokens') as { values(): readonly string[] }
    const long = tokens.values().with(400, 'x'.repeat(129))
    const given = keys('llama2', { tokens: arrayOf('string', long) })
    expect(refusal(() => hfTokenizerOf(given, 'm.gguf'), 'unsupported')).toMatch(/a token, 400, of 129 characters/)
  })

  it('that are missing mean what they mean to llama.cpp', () => {
    const { tokenizer, config } = hfTokenizerOf(keys('llama2', { add_bos_token: undefined }), 'm.gguf')
    expect(config).toMatchObject({ bos_token: '<|end|>', unk_token: '<unk>' }) // ids 1 and 0
    expect(tokenizer.post_processor).toMatchObject({ single: [{ SpecialToken: { id: '<|end|>' } }, {}] })
    const plain = hfTokenizerOf(keys('gpt2', { pre: undefined }), 'm.gguf').tokenizer
    expect(plain.pre_tokenizer).toMatchObject({
      pretokenizers: [{}, {}, {}, { pattern: { Regex: '[0-9][0-9][0-9]' } }, {}],
    })
  })

  it('of SentencePiece without a space before text give none', () => {
    const given = keys('llama2', { add_space_prefix: single('bool', false) })
    const { tokenizer } = hfTokenizerOf(given, 'm.gguf')
    expect(tokenizer.normalizer).toEqual({ type: 'Replace', pattern: { String: ' ' }, content: '▁' })
    const again = tokenizerMetadata({ json: tokenizer, file: 'tokenizer.json' }, rows).metadata
    expect(again.get('tokenizer.ggml.add_space_prefix')).toEqual(single('bool', false))
  })

  it('with equal scores are noted', () => {
    const scores = arrayOf('f32', Array(460).fill(-1000))
    expect(hfTokenizerOf(keys('llama2', { scores }), 'm.gguf').notes).toEqual([
      expect.stringMatching(/\d+ tokens share their score with another/),
    ])
  })
})

describe('merges', () => {
  const merges = [
    ['a', 'b'],
    ['ab', 'c'],
    ['a', 'bc'],
  ] as const

  it('become scores by their order', () => {
    expect(scoresOf(['a', 'abc', 'ab'], merges).map(score => score + 0)).toEqual([-2, -1, 0])
  })

  it('come back from scores, with every cut', () => {
    const scores = new Map(Object.entries({ a: -9, b: -9, c: -9, bc: -2, abc: -1, ab: 0 }))
    expect(mergesOf(scores)).toEqual([
      ['a', 'b'],
      ['a', 'bc'],
      ['ab', 'c'],
      ['b', 'c'],
    ])
  })

  it('that llama.cpp adds are counted', () => {
    expect(unlistedMerges(new Set(['a', 'b', 'c', 'bc', 'ab', 'abc']), merges)).toBe(1)
  })

  it('that do not reach a token are found', () => {
    expect(mergesReachAll(['a', 'ab', 'abc'], merges)).toBe(true)
    expect(mergesReachAll(['a', 'bc'], merges)).toBe(false)
  })
})
