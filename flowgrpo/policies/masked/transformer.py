"""A small bidirectional transformer over ids, as transformers loads and saves models.

Shapes: B rows, N ids, V vocabulary, W width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput


class MiniMdlmConfig(PretrainedConfig):
    model_type = "flowgrpo-mini-mdlm"

    def __init__(
        self,
        vocab_size: int = 20,
        hidden_size: int = 160,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 5,
        max_position_embeddings: int = 32,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.max_position_embeddings = num_attention_heads, max_position_embeddings
        super().__init__(**rest)


class Block(GradientCheckpointingLayer):
    def __init__(self, config: MiniMdlmConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """[B, N, W]; `visible` [B, 1, 1, N] booleans says which ids are seen."""
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.o_proj(scaled_dot_product_attention(q, k, v, visible).transpose(1, 2).flatten(2))
        return x + self.down_proj(nn.functional.gelu(self.up_proj(self.norm2(x))))


class MiniMdlm(PreTrainedModel):
    """Pre-norm blocks, learned positions, every id sees every other."""

    config_class = MiniMdlmConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True

    def __init__(self, config: MiniMdlmConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> MaskedLMOutput:
        """[B, N] -> logits [B, N, V]; `attention_mask` [B, N] is 0 for ids that none may see."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
        visible = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        x = self.embed_tokens(input_ids) + self.embed_positions(positions)
        for layer in self.layers:
            x = layer(x, visible)
        return MaskedLMOutput(logits=self.lm_head(self.norm(x)))


AutoConfig.register(MiniMdlmConfig.model_type, MiniMdlmConfig)
AutoModel.register(MiniMdlmConfig, MiniMdlm)
