/**
 * The shapes of well-known models as Hugging Face configs: what `synthesize` and the benchmarks
 * know by name. Data only; the published configs say nothing else that matters for speed or memory.
 */

interface Shape {
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads?: number;
  vocab_size?: number;
  max_position_embeddings: number;
  rms_norm_eps?: number;
  rope_theta?: number;
  tie_word_embeddings?: boolean;
}

function llama(shape: Shape): Readonly<Record<string, unknown>> {
  return Object.freeze({
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    num_key_value_heads: shape.num_attention_heads,
    vocab_size: 32_000,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
    ...shape,
  });
}

/** Configs by name, the small ones first. */
export const shapes: Readonly<Record<string, Readonly<Record<string, unknown>>>> = Object.freeze({
  // llama2.c's models, trained on TinyStories.
  stories15m: llama({
    hidden_size: 288,
    intermediate_size: 768,
    num_hidden_layers: 6,
    num_attention_heads: 6,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
  }),
  "llama-110m": llama({
    hidden_size: 768,
    intermediate_size: 2_048,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 1_024,
    tie_word_embeddings: true,
  }),
  "tinyllama-1.1b": llama({
    hidden_size: 2_048,
    intermediate_size: 5_632,
    num_hidden_layers: 22,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    max_position_embeddings: 2_048,
  }),
  "llama-2-7b": llama({
    hidden_size: 4_096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 4_096,
  }),
  "llama-3-8b": llama({
    hidden_size: 4_096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    vocab_size: 128_256,
    max_position_embeddings: 8_192,
    rope_theta: 500_000,
  }),
  "llama-2-13b": llama({
    hidden_size: 5_120,
    intermediate_size: 13_824,
    num_hidden_layers: 40,
    num_attention_heads: 40,
    max_position_embeddings: 4_096,
  }),
  "llama-30b": llama({
    hidden_size: 6_656,
    intermediate_size: 17_920,
    num_hidden_layers: 60,
    num_attention_heads: 52,
    max_position_embeddings: 2_048,
    rms_norm_eps: 1e-6,
  }),
  "llama-2-70b": llama({
    hidden_size: 8_192,
    intermediate_size: 28_672,
    num_hidden_layers: 80,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    max_position_embeddings: 4_096,
  }),
});
