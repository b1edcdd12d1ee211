"""transformers: models of text."""

from __future__ import annotations

from benchmarks.coverage.cases import Builder
from benchmarks.coverage.cases.small import Config, cases, causal_inputs, ids, pair_inputs, text_inputs

GQA = {"num_key_value_heads": 2}
MOE = {**GQA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}

ENCODERS = {
    "albert": ("AlbertForSequenceClassification", {"embedding_size": 32}),
    "bert": ("BertForSequenceClassification", {}),
    "bert_generation": ("BertGenerationEncoder", {}),
    "big_bird": ("BigBirdForSequenceClassification", {"attention_type": "original_full"}),
    "camembert": ("CamembertForMaskedLM", {}),
    "convbert": ("ConvBertForSequenceClassification", {"embedding_size": 64}),
    "data2vec_text": ("Data2VecTextForSequenceClassification", {}),
    "deberta": ("DebertaForSequenceClassification", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta_v2": ("DebertaV2ForSequenceClassification", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "distilbert": ("DistilBertForSequenceClassification", {"hidden_dim": 128}),
    "electra": ("ElectraForSequenceClassification", {"embedding_size": 32}),
    "ernie": ("ErnieForSequenceClassification", {}),
    "esm": ("EsmForSequenceClassification", {"position_embedding_type": "rotary", "mask_token_id": 3}),
    "eurobert": ("EuroBertForSequenceClassification", GQA),
    "flaubert": ("FlaubertForSequenceClassification", {"emb_dim": 64, "n_layers": 2, "n_heads": 4}),
    "fnet": ("FNetForMaskedLM", {}),
    "funnel": ("FunnelForSequenceClassification", {"block_sizes": [1, 1], "d_head": 16, "d_inner": 128}),
    "gte": ("GteModel", {}),
    "ibert": ("IBertForSequenceClassification", {}),
    "jina_embeddings_v3": ("JinaEmbeddingsV3Model", {}),
    "layoutlm": ("LayoutLMForSequenceClassification", {"max_2d_position_embeddings": 32}),
    "lilt": ("LiltModel", {"hidden_size": 96, "max_2d_position_embeddings": 32}),
    "longformer": ("LongformerForSequenceClassification", {"attention_window": 8}),
    "luke": ("LukeModel", {"entity_vocab_size": 20, "entity_emb_size": 16}),
    "megatron_bert": ("MegatronBertForSequenceClassification", {}),
    "mobilebert": ("MobileBertForSequenceClassification", {"embedding_size": 32, "intra_bottleneck_size": 32}),
    "modernbert": ("ModernBertForSequenceClassification", {"cls_token_id": 1, "sep_token_id": 2}),
    "mpnet": ("MPNetForSequenceClassification", {}),
    "mra": ("MraForSequenceClassification", {"block_per_row": 1}),
    "nomic_bert": ("NomicBertModel", {}),
    "rembert": ("RemBertForSequenceClassification", {"input_embedding_size": 32, "output_embedding_size": 32}),
    "roberta": ("RobertaForSequenceClassification", {}),
    "roberta_prelayernorm": ("RobertaPreLayerNormForSequenceClassification", {}),
    "roformer": ("RoFormerForSequenceClassification", {"embedding_size": 64}),
    "splinter": ("SplinterModel", {}),
    "squeezebert": ("SqueezeBertForSequenceClassification", {"embedding_size": 64}),
    "xlm": ("XLMForSequenceClassification", {"emb_dim": 64, "n_layers": 2, "n_heads": 4}),
    "xlm_roberta": ("XLMRobertaForTokenClassification", {}),
    "xlnet": ("XLNetForSequenceClassification", {"d_head": 16, "d_inner": 128}),
    "xmod": ("XmodForSequenceClassification", {"default_language": "en_XX"}),
    "yoso": ("YosoForSequenceClassification", {"use_expectation": True}),
}

# An attention mask for these is dropped where all is attended to, unless export looks on; then they fail by themselves.
UNMASKED = {
    "nystromformer": ("NystromformerForSequenceClassification", {"num_landmarks": 4, "segment_means_seq_len": 16}),
}

DECODERS = {
    "apertus": ("ApertusForCausalLM", GQA),
    "arcee": ("ArceeForCausalLM", GQA),
    "biogpt": ("BioGptForCausalLM", {}),
    "bitnet": ("BitNetForCausalLM", GQA),
    "bloom": ("BloomForCausalLM", {}),
    "codegen": ("CodeGenForCausalLM", {"rotary_dim": 8, "n_inner": 128}),
    "cohere": ("CohereForCausalLM", GQA),
    "cohere2": ("Cohere2ForCausalLM", GQA),
    "ctrl": ("CTRLLMHeadModel", {"dff": 128}),
    "diffllama": ("DiffLlamaForCausalLM", GQA),
    "doge": ("DogeForCausalLM", GQA),
    "ernie4_5": ("Ernie4_5ForCausalLM", GQA),
    "exaone4": ("Exaone4ForCausalLM", GQA),
    "falcon": ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_mqa": ("FalconForCausalLM", {"multi_query": True, "parallel_attn": True}),
    "gemma": ("GemmaForCausalLM", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**GQA, "head_dim": 16}),
    "gemma3": ("Gemma3ForCausalLM", {**GQA, "head_dim": 16}),
    "glm": ("GlmForCausalLM", {**GQA, "head_dim": 16}),
    "glm4": ("Glm4ForCausalLM", {**GQA, "head_dim": 16}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {"multi_query": True}),
    "gpt_neo": ("GPTNeoForCausalLM", {"attention_types": [[["global", "local"], 1]], "num_layers": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "gptj": ("GPTJForCausalLM", {"rotary_dim": 8, "n_inner": 128}),
    "granite": ("GraniteForCausalLM", GQA),
    "helium": ("HeliumForCausalLM", {**GQA, "head_dim": 16}),
    "imagegpt": ("ImageGPTForCausalImageModeling", {}),
    "llama": ("LlamaForCausalLM", GQA),
    "ministral": ("MinistralForCausalLM", {**GQA, "head_dim": 16}),
    "mistral": ("MistralForCausalLM", {**GQA, "head_dim": 16}),
    "modernbert_decoder": ("ModernBertDecoderForCausalLM", {"cls_token_id": 1, "sep_token_id": 2}),
    "mpt": ("MptForCausalLM", {"n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 64}),
    "nanochat": ("NanoChatForCausalLM", GQA),
    "nemotron": ("NemotronForCausalLM", GQA),
    "olmo": ("OlmoForCausalLM", GQA),
    "olmo2": ("Olmo2ForCausalLM", GQA),
    "olmo3": ("Olmo3ForCausalLM", GQA),
    "openai_gpt": ("OpenAIGPTLMHeadModel", {}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "persimmon": ("PersimmonForCausalLM", {}),
    "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", GQA),
    "qwen2": ("Qwen2ForCausalLM", GQA),
    "qwen3": ("Qwen3ForCausalLM", {**GQA, "head_dim": 16}),
    "seed_oss": ("SeedOssForCausalLM", {**GQA, "head_dim": 16}),
    "smollm3": ("SmolLM3ForCausalLM", GQA),
    "stablelm": ("StableLmForCausalLM", GQA),
    "starcoder2": ("Starcoder2ForCausalLM", GQA),
    "xglm": ("XGLMForCausalLM", {"ffn_dim": 128, "attention_heads": 4, "num_layers": 2}),
}
EXPERTS = {
    "dbrx": (
        "DbrxForCausalLM",
        {
            "n_heads": 4,
            "n_layers": 2,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        {
            **MOE, "num_key_value_heads": 4, "n_routed_experts": 4, "kv_lora_rank": 32, "q_lora_rank": 32, "n_group": 1,
            "topk_group": 1, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1,
        },
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **MOE, "num_key_value_heads": 4, "n_routed_experts": 4, "kv_lora_rank": 32, "q_lora_rank": 32, "n_group": 2,
            "topk_group": 1, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1,
        },
    ),
    "dots1": ("Dots1ForCausalLM", {**MOE, "n_shared_experts": 1, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {**GQA, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64}),
    "flex_olmo": ("FlexOlmoForCausalLM", {**GQA, "num_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": (
        "Glm4MoeForCausalLM",
        {**MOE, "n_routed_experts": 4, "head_dim": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    ),
    "gpt_oss": ("GptOssForCausalLM", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "granitemoe": ("GraniteMoeForCausalLM", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "jetmoe": ("JetMoeForCausalLM", {"num_key_value_heads": 2, "kv_channels": 16, "num_local_experts": 4}),
    "mixtral": ("MixtralForCausalLM", {**GQA, "num_local_experts": 4}),
    "olmoe": ("OlmoeForCausalLM", {**GQA, "num_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": ("PhimoeForCausalLM", {**GQA, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**MOE, "shared_expert_intermediate_size": 64}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**MOE, "head_dim": 16}),
}  # fmt: skip
STATE_SPACE = {
    "bamba": (
        "BambaForCausalLM",
        {**GQA, "mamba_n_heads": 4, "mamba_d_state": 16, "mamba_chunk_size": 8, "attn_layer_indices": [1]},
    ),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        {**GQA, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_state": 16, "mamba_chunk_size": 8},
    ),
    "falcon_mamba": ("FalconMambaForCausalLM", {}),
    "jamba": (
        "JambaForCausalLM",
        {**GQA, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "lfm2": ("Lfm2ForCausalLM", {**GQA, "block_multiple_of": 8, "full_attn_idxs": [1]}),
    "mamba": ("MambaForCausalLM", {}),
    "mamba2": ("Mamba2ForCausalLM", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 8}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            **MOE, "shared_expert_intermediate_size": 64, "head_dim": 16, "linear_num_value_heads": 4,
            "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", {"num_hidden_layers": 3, "attention_window_size": 16, **GQA}),
    "rwkv": ("RwkvForCausalLM", {"attention_hidden_size": 64}),
    "zamba": (
        "ZambaForCausalLM",
        {
            "num_hidden_layers": 6, "num_key_value_heads": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
            "use_mamba_kernels": False, "attention_head_dim": 32,
        },
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        {
            "num_hidden_layers": 3, "num_key_value_heads": 4, "mamba_d_state": 16, "n_mamba_heads": 8, "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid", "mamba"], "use_mem_eff_path": False,
        },
    ),
}  # fmt: skip
T5 = {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 128}
SEQ2SEQ = {
    "bart": ("BartForConditionalGeneration", {}),
    "bigbird_pegasus": ("BigBirdPegasusForConditionalGeneration", {"attention_type": "original_full"}),
    "blenderbot": ("BlenderbotForConditionalGeneration", {}),
    "blenderbot_small": ("BlenderbotSmallForConditionalGeneration", {}),
    "fsmt": ("FSMTForConditionalGeneration", {"src_vocab_size": 100, "tgt_vocab_size": 100, "langs": ["en", "de"]}),
    "led": ("LEDForConditionalGeneration", {"attention_window": 8, "max_encoder_position_embeddings": 64}),
    "longt5": ("LongT5ForConditionalGeneration", {**T5, "local_radius": 7}),
    "m2m_100": ("M2M100ForConditionalGeneration", {}),
    "marian": ("MarianMTModel", {}),
    "mbart": ("MBartForConditionalGeneration", {}),
    "mt5": ("MT5ForConditionalGeneration", T5),
    "mvp": ("MvpForConditionalGeneration", {}),
    "nllb_moe": ("NllbMoeForConditionalGeneration", {"num_experts": 4, "expert_capacity": 16}),
    "pegasus": ("PegasusForConditionalGeneration", {}),
    "pegasus_x": ("PegasusXForConditionalGeneration", {"num_global_tokens": 4, "block_size": 8}),
    "plbart": ("PLBartForConditionalGeneration", {}),
    "prophetnet": (
        "ProphetNetForConditionalGeneration",
        {"num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
         "num_decoder_attention_heads": 4},
    ),
    "switch_transformers": ("SwitchTransformersForConditionalGeneration", {**T5, "num_experts": 4}),
    "t5": ("T5ForConditionalGeneration", T5),
    "umt5": ("UMT5ForConditionalGeneration", T5),
}  # fmt: skip

CASES: dict[str, Builder] = {
    **cases(text_inputs, ENCODERS),
    **cases(lambda: {"input_ids": ids()}, UNMASKED),
    **cases(causal_inputs, {**DECODERS, **EXPERTS, **STATE_SPACE}),
    **cases(pair_inputs, SEQ2SEQ),
}
