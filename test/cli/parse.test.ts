import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { commandNames, commandTable } from '../../src/cli/command-table.ts'
import { examples } from '../../src/cli/docs.ts'
import { optionSpec } from '../../src/cli/options.ts'
import { type Parsed, parse } from '../../src/cli/parse.ts'
import type { ActivationScheme } from '../../src/contracts.ts'
import { QuantizeError } from '../../src/errors.ts'
import { schemeText } from '../../src/evaluate/activation-scheme.ts'

const words = (line: string): string[] => line.split(' ').filter(word => word !== '')
const parseLine = (line: string): Parsed => parse(words(line))
const optionsOf = (line: string): Record<string, unknown> => {
  const parsed = parseLine(line)
  if (!('options' in parsed)) throw new Error(`${line} is ${parsed.command}`)
  return { ...parsed.options }
}
const refusal = (args: readonly string[]): QuantizeError => {
  try {
    parse(args)
  } catch (error) {
    if (error instanceof QuantizeError) return error
    throw error
  }
  throw new Error(`accepted: ${args.join(' ')}`)
}

describe('defaults', () => {
  it('are complete; what the method chooses is left to it', () => {
    expect(parseLine('m')).toEqual({
      command: 'quantize',
      options: {
        model: 'm',
        explicit: new Set(),
        output: undefined,
        method: 'gptq',
        bits: undefined,
        grid: undefined,
        headBits: undefined,
        embedBits: undefined,
        include: undefined,
        exclude: undefined,
        overrides: [],
        activations: undefined,
        activationScales: 'dynamic',
        restDtype: undefined,
        group: undefined,
        symmetric: undefined,
        clip: undefined,
        actOrder: undefined,
        damp: undefined,
        format: undefined,
        groupFallback: false,
        biasCorrection: false,
        unfit: 'error',
        calib: 'bundled',
        samples: 128,
        seqLen: 512,
        seed: 0,
        shardBytes: 5_000_000_000,
        threads: undefined,
        report: undefined,
        strict: false,
        dryRun: false,
        overwrite: false,
        resume: true,
        maxMemory: undefined,
        nonfinite: 'error',
        json: false,
        quiet: false,
        verbose: false,
      },
    })
  })
  it('of inspect', () =>
    expect(parseLine('inspect m')).toEqual({
      command: 'inspect',
      options: { model: 'm', explicit: new Set(), json: false, verbose: false },
    }))
  it('of eval', () =>
    expect(parseLine('eval m --text t.txt')).toEqual({
      command: 'eval',
      options: {
        model: 'm',
        explicit: new Set(['text']),
        text: 't.txt',
        seqLen: 512,
        windows: 8,
        reference: undefined,
        activationScheme: undefined,
        outliers: undefined,
        threads: undefined,
        json: false,
        quiet: false,
        verbose: false,
      },
    }))
})

describe('values', () => {
  it.each<[string, Record<string, unknown>]>([
    ['m -o out', { output: 'out' }],
    ['m -oout', { output: 'out' }],
    ['m --output=a=b', { output: 'a=b' }],
    ['--bits 8 m --method rtn', { bits: 8, method: 'rtn', model: 'm' }],
    ['m --method GPTQ', { method: 'gptq' }],
    ['m --bits 2', { bits: 2 }],
    ['m --bits 3', { bits: 3 }],
    ['m --bits 2 --bits 4', { bits: 4 }],
    ['m --group 64', { group: 64 }],
    ['m --group -1', { group: 'channel' }],
    ['m --group=-1', { group: 'channel' }],
    ['m --group Channel', { group: 'channel' }],
    ['m --group tensor', { group: 'tensor' }],
    ['m --group block --grid fp8', { group: 'block', grid: 'fp8' }],
    ['m --grid BNB_FP4', { grid: 'bnb-fp4' }],
    ['m --head-bits 8 --embed-bits none', { headBits: 8, embedBits: 'none' }],
    ['m --include *.q_proj,*.k_proj --exclude a', { include: ['*.q_proj', '*.k_proj'], exclude: ['a'] }],
    [
      'm --override *.v_proj=bits:8,group:channel --override a=b*=grid:nf4,sym',
      {
        overrides: [
          { glob: '*.v_proj', bits: 8, group: 'channel' },
          { glob: 'a=b*', grid: 'nf4', symmetric: true },
        ],
      },
    ],
    ['m --dtype bf16 --activations none', { restDtype: 'BF16', activations: 'none' }],
    ['m --activations int8', { activations: { grid: 'int8', symmetric: true, granularity: 'token' } }],
    ['m --activations int8:asym', { activations: { grid: 'int8', symmetric: false, granularity: 'token' } }],
    ['m --activations int8:group=64', { activations: { grid: 'int8', symmetric: true, granularity: 64 } }],
    [
      'm --scheme FP8',
      { grid: 'fp8', group: 'channel', activations: { grid: 'fp8', symmetric: true, granularity: 'token' } },
    ],
    ['m --sym', { symmetric: true }],
    ['m --asym', { symmetric: false }],
    ['m --clip mse', { clip: 'mse' }],
    ['m --act-order g-idx', { actOrder: 'g_idx' }],
    ['m --act-order static', { actOrder: 'static' }],
    ['m --damp 0', { damp: 0 }],
    ['m --damp .05', { damp: 0.05 }],
    ['m --damp 1e-3', { damp: 0.001 }],
    ['m --format gptq:V2', { format: ['gptq:v2'] }],
    ['m --unfit keep', { unfit: 'keep' }],
    ['m --calib BUNDLED', { calib: 'bundled' }],
    ['m --calib data/my_text.TXT', { calib: 'data/my_text.TXT' }],
    ['m --calib a.jsonl', { calib: 'a.jsonl' }],
    ['m --samples 1 --seq-len 2048 --seed 7', { samples: 1, seqLen: 2048, seed: 7 }],
    ['m --shard-size 5GB', { shardBytes: 5_000_000_000 }],
    ['m --shard-size 500MB', { shardBytes: 500_000_000 }],
    ['m --shard-size 4GiB', { shardBytes: 4_294_967_296 }],
    ['m --shard-size 1.5gb', { shardBytes: 1_500_000_000 }],
    ['m --shard-size 4096', { shardBytes: 4096 }],
    ['m --threads 2', { threads: 2 }],
    ['m --dry-run --overwrite --strict --json', { dryRun: true, overwrite: true, strict: true, json: true }],
    ['m --group-fallback --report r.json', { groupFallback: true, report: 'r.json' }],
    ['-- --odd-name', { model: '--odd-name' }],
    ['--bits 4 -- inspect', { model: 'inspect', bits: 4 }],
    ['--json inspect m', { json: true, model: 'm' }],
    ['eval --seq-len 128 m --text t --windows 2 --reference r', { seqLen: 128, windows: 2, reference: 'r', text: 't' }],
  ])('%s', (line, expected) => expect(optionsOf(line)).toMatchObject(expected))

  it.each<[string, ActivationScheme | 'none']>([
    ['none', 'none'],
    ['int8', { grid: 'int8', symmetric: true, granularity: 'token', dynamic: true }],
    ['INT4:ASYM,tensor', { grid: 'int4', symmetric: false, granularity: 'tensor', dynamic: true }],
    ['int8:group=128', { grid: 'int8', symmetric: true, granularity: 128, dynamic: true }],
    ['int8:group:64, asym', { grid: 'int8', symmetric: false, granularity: 64, dynamic: true }],
    ['fp8:tensor', { grid: 'fp8', symmetric: true, granularity: 'tensor', dynamic: true }],
    ['nvfp4', { grid: 'nvfp4', symmetric: true, granularity: 16, dynamic: true }],
    ['mxfp4:sym,group=32', { grid: 'mxfp4', symmetric: true, granularity: 32, dynamic: true }],
    ['mxfp8', { grid: 'mxfp8', symmetric: true, granularity: 32, dynamic: true }],
  ])('eval --activations %s', (text, scheme) => {
    const read = (value: string) => parse(['eval', 'm', '--text', 't', '--activations', value])
    expect(read(text)).toMatchObject({ options: { activationScheme: scheme } })
    if (scheme !== 'none') expect(read(schemeText(scheme))).toEqual(read(text))
  })

  it.each([
    ['int8:static', { symmetric: true, observer: 'minmax' }],
    ['int8:asym,static=mse', { symmetric: false, observer: 'mse' }],
    ['fp8:static=percentile', { grid: 'fp8', observer: 'percentile' }],
  ])('eval --activations %s, with --stats', (text, scheme) => {
    const args = ['eval', 'm', '--text', 't', '--activations', text]
    expect(parse([...args, '--stats', 's'])).toMatchObject({
      options: { activationScheme: { granularity: 'tensor', dynamic: false, ...scheme } },
    })
    expect(() => parse(args)).toThrow('give --stats too')
    expect(() => parse(['eval', 'm', '--text', 't', '--stats', 's'])).toThrow('without that it has no effect')
  })

  it('keeps what the user gave apart from defaults', () =>
    expect(optionsOf('m --asym --samples 128 --w_bit 4').explicit).toEqual(new Set(['symmetric', 'samples', 'bits'])))
})

describe('spellings of other tools', () => {
  it.each([
    ['--group-size 32', '--group 32'],
    ['--group_size 32', '--group 32'],
    ['--q-group-size 32', '--group 32'],
    ['--q_group_size=32', '--group 32'],
    ['--groupsize -1', '--group channel'],
    ['--q-bits 3', '--bits 3'],
    ['--q_bits 3', '--bits 3'],
    ['--w_bit 3', '--bits 3'],
    ['--wbits 3', '--bits 3'],
    ['--nsamples 9', '--samples 9'],
    ['--num_samples 9', '--samples 9'],
    ['--seqlen 99', '--seq-len 99'],
    ['--max-seq-length 99', '--seq-len 99'],
    ['--max_seq_length 99', '--seq-len 99'],
    ['--percdamp .02', '--damp .02'],
    ['--desc-act', '--act-order g_idx'],
    ['--desc_act', '--act-order g_idx'],
    ['--act_order none', '--act-order none'],
    ['--scheme W2A16', '--bits 2'],
    ['--scheme w8a16', '--bits 8'],
    ['--force', '--overwrite'],
    ['--dry_run', '--dry-run'],
    ['--output_dir out', '--output out'],
  ])('%s is %s', (theirs, ours) => expect(optionsOf(`m ${theirs}`)).toEqual(optionsOf(`m ${ours}`)))
})

describe('refusals', () => {
  it.each([
    ['', 'no model given'],
    ['m --bit 4', '--bit: no such option; the nearest is --bits'],
    ['m --groop_size 4', '--groop-size: no such option; the nearest is --group-size'],
    ['m --sed 1', 'the nearest is --seed'],
    ['m --dryrun', 'the nearest is --dry-run'],
    ['m --assym', 'the nearest is --asym'],
    ['m --target-bpw 4', '--target-bpw: no such option; usage: quantize <model>'],
    ['m -x', '-x: not an option'],
    ['m -Vx', '-Vx: not an option'],
    ['m --method gtpq', '--method gtpq: rtn, gptq, awq, smoothquant or llm.int8 is needed; the nearest is gptq'],
    ['m --method xyz', '--method xyz: rtn, gptq, awq, smoothquant or llm.int8 is needed'],
    ['m --clip msse', 'the nearest is mse'],
    ['m --bits 9', '--bits 9: a whole number from 1 to 8 is needed; the nearest is 8'],
    ['m --bits 0', 'the nearest is 1'],
    ['m --bits 16', 'the nearest is 8'],
    ['m --bits 4.0', 'a whole number from 1 to 8 is needed'],
    ['m --bits four', '--bits four: a whole number from 1 to 8 is needed'],
    ['m --bits', '--bits needs a value: --bits <n>'],
    ['m --wbits --json', '--bits --json: a whole number from 1 to 8 is needed'],
    ['m --override bits:8', 'a pattern, = and what differs'],
    ['m --override *=bit:8', 'the nearest is bits'],
    ['m --override *=bits:9', 'a whole number from 1 to 8 is needed'],
    ['m --dtype fp16', 'the nearest is f16'],
    ['m --group 0', 'the nearest is 1 or channel'],
    ['m --group -128', 'the nearest is channel'],
    ['m --group chanel', 'the nearest is channel'],
    ['m --group 1e2', 'a whole number of columns, channel (or -1), tensor or block is needed'],
    ['m --samples 0', 'a whole number from 1 to 1000000 is needed; the nearest is 1'],
    ['m --samples 9999999', 'the nearest is 1000000'],
    ['m --samples all', '--samples all: a whole number from 1 to 1000000 is needed'],
    ['m --seq-len 1', 'the nearest is 2'],
    ['m --seed -3', 'the nearest is 0'],
    ['m --threads 0', 'the nearest is 1'],
    ['m --damp 2', '--damp 2: a fraction from 0 to 1 is needed; the nearest is 1'],
    ['m --damp -0.1', 'the nearest is 0'],
    ['m --damp 1%', 'a fraction from 0 to 1 is needed'],
    ['m --shard-size 5XB', '--shard-size 5XB: a size such as'],
    ['m --shard-size 0GB', 'at least 1kB'],
    ['m --shard-size 99999999TB', 'a size such as'],
    ['m --calib data.parquet', '--calib data.parquet: bundled, or a file that ends in .txt or .jsonl, is needed'],
    ['m --calib .txt', 'is needed'],
    ['m --output --bits', '--output --bits: a folder is needed'],
    ['m --output=', '--output "": a folder is needed'],
    ['m --json=yes', '--json takes no value; got yes'],
    ['m --desc_act=1', '--desc-act takes no value'],
    [
      'm --scheme W4A8',
      '--scheme W4A8: W2A16, W3A16, W4A16, W8A16, W8A8, FP8, NVFP4A16 or MXFP4A16 is needed; the nearest is W8A8',
    ],
    ['m --scheme w4a61', '; the nearest is W4A16'],
    ['m --act-order gidx', '; the nearest is g_idx'],
    ['m --sym --asym', '--sym and --asym contradict each other'],
    ['m --quiet --verbose', '--quiet and --verbose contradict each other'],
    ['m --method rtn --samples 8', '--samples has no effect with --method rtn (it needs no data); leave it out'],
    ['m --method rtn --nsamples 8', '--samples has no effect'],
    ['m --method rtn --seq-len 8', '--seq-len has no effect with --method rtn (it needs no data)'],
    ['m --method rtn --seed 0', '--seed has no effect with --method rtn (it needs no data)'],
    ['m --method rtn --calib bundled', '--calib has no effect with --method rtn (it needs no data)'],
    ['m --method rtn --damp 0.01', '--damp has no effect with --method rtn (it rounds each weight to nearest)'],
    ['m --method rtn --desc_act', '--act-order has no effect with --method rtn'],
    ['inspct m', 'inspct is not a command (the nearest is inspect)'],
    ['m q4_k_m', 'what is q4_k_m?; usage: quantize <model> [options]'],
    ['inspect', 'no model given; usage: quantize inspect <model>'],
    ['inspect a b', 'one model is taken, and 2 arguments were given'],
    ['compare', 'no <a> given; usage: quantize compare <a> <b> [options]'],
    ['compare m', 'no <b> given; usage: quantize compare <a> <b> [options]'],
    ['compare m m m', 'two models are taken, and 3 arguments were given: what is m?'],
    ['compare m m --tolerance -1', '--tolerance -1: a number of at least 0, such as 0.001 or 1e-3, is needed'],
    ['compare m m --tolerance 1e999', '--tolerance 1e999: a number of at least 0'],
    ['compare m m --atol x', '--tolerance x: a number of at least 0'],
    ['compare m m --threads 2', '--threads is an option of quantizing, not of quantize compare'],
    ['formats m', 'no model is taken, and 1 argument was given: what is m?; usage: quantize formats [options]'],
    ['inspect m --bits 4', '--bits is an option of quantizing, not of quantize inspect'],
    ['inspect m --quiet', '--quiet is an option of quantizing, not of quantize inspect'],
    ['m --windows 3', '--windows is an option of quantize eval, not of quantizing'],
    ['eval m', '--text <file> is needed; usage: quantize eval <model> --text <file>'],
    ['eval m --text t --window 3', 'the nearest is --windows'],
    ['eval m --text t --wbits 3', '--wbits is an option of quantizing'],
    ['eval m --text t --activations', '--activations needs a value: --activations <scheme|none>'],
    ['m --activations', '--activations needs a value: --activations <scheme|none>'],
    ['m --activations int4', '--activations int4: int8 or fp8 is needed'],
    ['m --activations int8:static', 'for stored scales use --activation-scales'],
    ['m --activations int8:tensor', 'give each token a scale, or --activation-scales minmax'],
    ['m --activations fp8:group=128', 'groups of FP8 inputs go with --group block'],
    ['eval m --text t --activations int9', '; the nearest is int8'],
    ['eval m --text t --activations int8:assym', '; the nearest is asym'],
    ['eval m --text t --activations int8:', 'a grid and its options'],
    ['eval m --text t --activations int8:group', 'a grid and its options'],
    ['eval m --text t --activations int8:token=2', 'a grid and its options'],
    ['eval m --text t --activations int8:group=0', 'a whole number from 1'],
    ['eval m --text t --activations fp8:asym', 'fp8 has no zero point; only int4 and int8 are asymmetric'],
    ['eval m --text t --activations nvfp4:token', 'nvfp4 has scales over groups of 16'],
    ['eval m --text t --activations mxfp4:group=16', 'mxfp4 has scales over groups of 32'],
    ['eval m --text t --activations int8 --outliers 0', '--outliers 0: a number above 0'],
    ['eval m --text t --outliers 6', '--outliers leaves features out of --activations, which is not given'],
    ['eval m --text t --outliers 6 --activations none', '--activations, which is none'],
  ])('%s', (line, message) => {
    const { code, message: said } = refusal(words(line))
    expect({ code, said }).toEqual({ code: 'bad-option', said: expect.stringContaining(message) })
    expect(said).not.toContain('\n')
  })

  it.each([['-'], ['hf:owner/name']])('%s as the model is not there yet', model => {
    expect(refusal([model]).code).toBe('unsupported')
    expect(refusal(['compare', 'm', model]).code).toBe('unsupported')
  })
  it('nor is stdout as the output', () => expect(refusal(['m', '-o', '-']).code).toBe('unsupported'))
  it('an empty model is no model', () => expect(refusal(['']).code).toBe('bad-option'))

  it('throws nothing but QuantizeError, whatever is typed', () => {
    const flags = commandNames.flatMap(name => commandTable[name].options.map(key => `--${optionSpec(key).flag}`))
    const word = fc.oneof(
      fc.constantFrom(...flags, '--', '-o', 'm', 'eval', 'help', '-1', '4'),
      fc.string({ maxLength: 8 }),
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 6 }), args => {
        try {
          const parsed = parse(args)
          if (!('options' in parsed)) return
          for (const operand of commandTable[parsed.command].operands)
            expect(parsed.options).toHaveProperty(operand, expect.stringMatching(/./s))
        } catch (error) {
          expect(error).toBeInstanceOf(QuantizeError)
        }
      }),
      { numRuns: 400 },
    )
  })
})

describe('help and version', () => {
  it.each<[string, Parsed]>([
    ['--help', { command: 'help', topic: 'quantize' }],
    ['-h', { command: 'help', topic: 'quantize' }],
    ['help', { command: 'help', topic: 'quantize' }],
    ['help eval', { command: 'help', topic: 'eval' }],
    ['inspect m --help', { command: 'help', topic: 'inspect' }],
    ['m --nonsense --help', { command: 'help', topic: 'quantize' }],
    ['--version', { command: 'version' }],
    ['-V', { command: 'version' }],
  ])('%s', (line, expected) => expect(parseLine(line)).toEqual(expected))
})

describe('examples of the docs', () => {
  it.each(examples)('%s', line => {
    const [program, ...args] = words(line)
    expect(program).toBe('quantize')
    expect(parse(args)).toHaveProperty('options')
  })
})
