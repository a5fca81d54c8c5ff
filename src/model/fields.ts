/** Config fields that mean the same to every architecture: read by nobody in a forward pass, or the mark of another function. */
import { type FieldRule, type FieldTable, fieldsOf } from './config.ts'

const only = (want: string, ...values: readonly unknown[]): FieldRule => ({ only: values, want })

const isEmpty = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && Object.keys(value).length === 0

/** Storage, training, generation and bookkeeping: transformers computes the same logits whatever they say. */
export const withoutEffect: FieldTable = {
  ...fieldsOf(
    'no effect',
    `model_type transformers_version dtype torch_dtype use_bfloat16 quantization_config initializer_range init_std use_cache
     bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
     attention_dropout hidden_dropout dropout activation_dropout resid_pdrop embd_pdrop attn_pdrop layerdrop classifier_dropout
     pretraining_tp output_attentions output_hidden_states output_past return_dict use_return_dict torchscript id2label label2id
     num_labels problem_type finetuning_task task_specific_params tokenizer_class prefix _name_or_path name_or_path _commit_hash
     attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset _flash_attn_2_enabled
     cross_attention_hidden_size chunk_size_feed_forward tf_legacy_loss tie_encoder_decoder is_decoder
     max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
     repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
     output_scores return_dict_in_generate remove_invalid_values exponential_decay_length_penalty suppress_tokens
     begin_suppress_tokens max_new_tokens min_new_tokens cache_implementation generation_config
     is_llama_config unsloth_version unsloth_fixed transformers.js_config model_name`,
  ),
  auto_map: { note: 'names code of its own, which is not run: the function is the one that model_type names' },
}

/**
 * Fields by which other architectures change the function. The named ones ignore most of them, but a checkpoint that carries
 * one was trained as something else: only the neutral value passes.
 */
export const foreign: FieldTable = {
  is_causal: only('true', true),
  ...fieldsOf(
    only('false', false),
    `is_encoder_decoder add_cross_attention use_bidirectional_attention use_sliding_window rope_interleaved rope_interleave
     use_qk_norm qk_norm qk_layernorm scale_embedding scale_embeddings normalize_embedding alibi parallel_attn
     use_parallel_residual bias use_bias qkv_bias attention_bias attention_in_bias attention_out_bias mlp_bias norm_bias
     lm_head_bias add_bias_linear multi_query`,
  ),
  ...fieldsOf(
    only('1', 1),
    `partial_rotary_factor rotary_pct rotary_percentage logit_scale logits_scaling embedding_multiplier residual_multiplier
     mup_width_multiplier`,
  ),
  ...fieldsOf(
    only('null'),
    `sliding_window attention_chunk_size attention_multiplier query_pre_attn_scalar attn_logit_softcapping
     final_logit_softcapping logit_cap clip_qkv no_rope_layers no_rope_layer_interval rotary_dim scale_emb scale_depth
     dim_model_base kv_lora_rank q_lora_rank qk_rope_head_dim n_embd n_layer n_head residual_scale layer_norm_type`,
  ),
  ...fieldsOf(only('0', 0), 'num_local_experts num_experts n_routed_experts n_shared_experts moe_intermediate_size'),
  ...fieldsOf({ only: isEmpty, want: 'an empty one' }, 'pruned_heads per_layer_config adapter_config'),
  architectures: {
    only: value =>
      Array.isArray(value) &&
      (value.length === 0 || value.some(name => typeof name === 'string' && name.endsWith('ForCausalLM'))),
    want: 'a list with a …ForCausalLM',
  },
}
