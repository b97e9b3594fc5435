"""The papers behind a world's parts, as BibTeX: `cite(world)` gives those that this world really uses."""

from __future__ import annotations

from .nn.actions import text_leaves
from .world import World

_PAPERS = {
    "dreamer4": """@article{hafner2025dreamer4,
  title = {Training Agents Inside of Scalable World Models},
  author = {Hafner, Danijar and Yan, Wilson and Lillicrap, Timothy},
  journal = {arXiv:2509.24527}, year = {2025}
}""",
    "shortcut": """@article{frans2024shortcut,
  title = {One Step Diffusion via Shortcut Models},
  author = {Frans, Kevin and Hafner, Danijar and Levine, Sergey and Abbeel, Pieter},
  journal = {arXiv:2410.12557}, year = {2024}
}""",
    "forcing": """@article{chen2024forcing,
  title = {Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion},
  author = {Chen, Boyuan and Mart{\\'i} Mons{\\'o}, Diego and Du, Yilun and Simchowitz, Max and Tedrake, Russ and
  Sitzmann, Vincent}, journal = {arXiv:2407.01392}, year = {2024}
}""",
    "rotary": """@article{su2021roformer,
  title = {RoFormer: Enhanced Transformer with Rotary Position Embedding},
  author = {Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and Liu, Yunfeng},
  journal = {arXiv:2104.09864}, year = {2021}
}""",
    "dit": """@article{peebles2022dit,
  title = {Scalable Diffusion Models with Transformers},
  author = {Peebles, William and Xie, Saining},
  journal = {arXiv:2212.09748}, year = {2022}
}""",
    "sinks": """@article{xiao2023sinks,
  title = {Efficient Streaming Language Models with Attention Sinks},
  author = {Xiao, Guangxuan and Tian, Yuandong and Chen, Beidi and Han, Song and Lewis, Mike},
  journal = {arXiv:2309.17453}, year = {2023}
}""",
    "mamba": """@article{gu2023mamba,
  title = {Mamba: Linear-Time Sequence Modeling with Selective State Spaces},
  author = {Gu, Albert and Dao, Tri},
  journal = {arXiv:2312.00752}, year = {2023}
}""",
    "ssd": """@article{dao2024ssd,
  title = {Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality},
  author = {Dao, Tri and Gu, Albert},
  journal = {arXiv:2405.21060}, year = {2024}
}""",
    "ssmvideo": """@article{po2025ssmvideo,
  title = {Long-Context State-Space Video World Models},
  author = {Po, Ryan and Nitzan, Yotam and Zhang, Richard and Chen, Berlin and Dao, Tri and Shechtman, Eli and
  Wetzstein, Gordon and Huang, Xun}, journal = {arXiv:2505.20171}, year = {2025}
}""",
    "edeline": """@article{lee2025edeline,
  title = {EDELINE: Enhancing Memory in Diffusion-based World Models via Linear-Time Sequence Modeling},
  author = {Lee, Jia-Hua and Lin, Bor-Jiun and Sun, Wei-Fang and Lee, Chun-Yi},
  journal = {arXiv:2502.00466}, year = {2025}
}""",
    "ttm": """@article{ryoo2022ttm,
  title = {Token Turing Machines},
  author = {Ryoo, Michael S. and Gopalakrishnan, Keerthana and Kahatapitiya, Kumara and Xiao, Ted and Rao, Kanishka and
  Stone, Austin and Lu, Yao and Ibarz, Julian and Arnab, Anurag}, journal = {arXiv:2211.09119}, year = {2022}
}""",
    "dreamer3": """@article{hafner2023dreamerv3,
  title = {Mastering Diverse Domains through World Models},
  author = {Hafner, Danijar and Pasukonis, Jurgis and Ba, Jimmy and Lillicrap, Timothy},
  journal = {arXiv:2301.04104}, year = {2023}
}""",
    "fluidworld": """@article{polly2026fluidworld,
  title = {FluidWorld: Reaction-Diffusion Dynamics as a Predictive Substrate for World Models},
  author = {Polly, Fabien},
  journal = {arXiv:2603.21315}, year = {2026}
}""",
    "worldmem": """@article{xiao2025worldmem,
  title = {WORLDMEM: Long-term Consistent World Simulation with Memory},
  author = {Xiao, Zeqi and Lan, Yushi and Zhou, Yifan and Ouyang, Wenqi and Yang, Shuai and Zeng, Yanhong and
  Pan, Xingang}, journal = {arXiv:2504.12369}, year = {2025}
}""",
    "memoryforcing": """@article{huang2025memoryforcing,
  title = {Memory Forcing: Spatio-Temporal Memory for Consistent Scene Generation on Minecraft},
  author = {Huang, Junchao and Hu, Xinting and Han, Boyao and Shi, Shaoshuai and Tian, Zhuotao and He, Tianyu and
  Jiang, Li}, journal = {arXiv:2510.03198}, year = {2025}
}""",
    "magicworld": """@article{li2025magicworld,
  title = {MagicWorld: Interactive Geometry-driven Video World Exploration},
  author = {Li, Guangyuan and Zheng, Siming and Xu, Shuolin and Chen, Jinwei and Li, Bo and Hu, Xiaobin and Zhao, Lei
  and Jiang, Peng-Tao}, journal = {arXiv:2511.18886}, year = {2025}
}""",
    "ladder": """@article{shi2025lacache,
  title = {LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models},
  author = {Shi, Dachuan and Fu, Yonggan and Yuan, Xiangchi and Yu, Zhongzhi and You, Haoran and Li, Sixu and
  Dong, Xin and Kautz, Jan and Molchanov, Pavlo and Lin, Yingyan},
  journal = {arXiv:2507.14204}, year = {2025}
}""",
    "snapkv": """@article{li2024snapkv,
  title = {SnapKV: LLM Knows What You are Looking for Before Generation},
  author = {Li, Yuhong and Huang, Yingbing and Yang, Bowen and Venkitesh, Bharat and Locatelli, Acyr and Ye, Hanchen
  and Cai, Tianle and Lewis, Patrick and Chen, Deming}, journal = {arXiv:2404.14469}, year = {2024}
}""",
    "cake": """@article{qin2025cake,
  title = {CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences},
  author = {Qin, Ziran and Cao, Yuchen and Lin, Mingbao and Hu, Wen and Fan, Shixuan and Cheng, Ke and Lin, Weiyao and
  Li, Jianguo}, journal = {arXiv:2503.12491}, year = {2025}
}""",
    "maskkv": """@article{huang2025maskkv,
  title = {Mask Tokens as Prophet: Fine-Grained Cache Eviction for Efficient dLLM Inference},
  author = {Huang, Jianuo and Zhang, Yaojie and Yang, Yicun and Huang, Benhao and Qi, Biqing and Liu, Dongrui and
  Zhang, Linfeng}, journal = {arXiv:2510.09309}, year = {2025}
}""",
    "tempcache": """@article{samuel2026tempcache,
  title = {Fast Autoregressive Video Diffusion and World Models with Temporal Cache Compression and Sparse Attention},
  author = {Samuel, Dvir and Tzachor, Issar and Levy, Matan and Green, Michael and Chechik, Gal and Ben-Ari, Rami},
  journal = {arXiv:2602.01801}, year = {2026}
}""",
    "razor": """@article{tang2024razorattention,
  title = {RazorAttention: Efficient KV Cache Compression Through Retrieval Heads},
  author = {Tang, Hanlin and Lin, Yang and Lin, Jing and Han, Qingsen and Hong, Shikuan and Yao, Yiwu and
  Wang, Gongyi}, journal = {arXiv:2407.15891}, year = {2024}
}""",
    "epicache": """@article{kim2025epicache,
  title = {EpiCache: Episodic KV Cache Management for Long Conversational Question Answering},
  author = {Kim, Minsoo and Kundu, Arnav and Kim, Han-Byul and Dixit, Richa and Cho, Minsik},
  journal = {arXiv:2509.17396}, year = {2025}
}""",
    "fsq": """@article{mentzer2023fsq,
  title = {Finite Scalar Quantization: VQ-VAE Made Simple},
  author = {Mentzer, Fabian and Minnen, David and Agustsson, Eirikur and Tschannen, Michael},
  journal = {arXiv:2309.15505}, year = {2023}
}""",
    "corrdiff": """@article{mardani2023corrdiff,
  title = {Residual Corrective Diffusion Modeling for Km-scale Atmospheric Downscaling},
  author = {Mardani, Morteza and Brenowitz, Noah and Cohen, Yair and Pathak, Jaideep and Chen, Chieh-Yu and others},
  journal = {arXiv:2309.15214}, year = {2023}
}""",
    "mar": """@article{li2024mar,
  title = {Autoregressive Image Generation without Vector Quantization},
  author = {Li, Tianhong and Tian, Yonglong and Li, He and Deng, Mingyang and He, Kaiming},
  journal = {arXiv:2406.11838}, year = {2024}
}""",
    "maskgit": """@article{chang2022maskgit,
  title = {MaskGIT: Masked Generative Image Transformer},
  author = {Chang, Huiwen and Zhang, Han and Jiang, Lu and Liu, Ce and Freeman, William T.},
  journal = {arXiv:2202.04200}, year = {2022}
}""",
    "mineworld": """@article{guo2025mineworld,
  title = {MineWorld: a Real-Time and Open-Source Interactive World Model on Minecraft},
  author = {Guo, Junliang and Ye, Yang and He, Tianyu and Wu, Haoyu and Jiang, Yushu and Pearce, Tim and Bian, Jiang},
  journal = {arXiv:2504.08388}, year = {2025}
}""",
    "pan": """@article{pan2025,
  title = {PAN: A World Model for General, Interactable, and Long-Horizon World Simulation},
  author = {{PAN Team}},
  journal = {arXiv:2511.09057}, year = {2025}
}""",
    "lora": """@article{hu2021lora,
  title = {LoRA: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and
  Wang, Lu and Chen, Weizhu}, journal = {arXiv:2106.09685}, year = {2021}
}""",
    "minilm": """@article{wang2020minilm,
  title = {MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers},
  author = {Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming},
  journal = {arXiv:2002.10957}, year = {2020}
}""",
    "sbert": """@article{reimers2019sbert,
  title = {Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks},
  author = {Reimers, Nils and Gurevych, Iryna},
  journal = {arXiv:1908.10084}, year = {2019}
}""",
    "deltairis": """@article{micheli2024deltairis,
  title = {Efficient World Models with Context-Aware Tokenization},
  author = {Micheli, Vincent and Alonso, Eloi and Fleuret, Fran{\\c{c}}ois},
  journal = {arXiv:2406.19320}, year = {2024}
}""",
    "hashes": """@article{svenstrup2017hash,
  title = {Hash Embeddings for Efficient Word Representations},
  author = {Svenstrup, Dan and Hansen, Jonas Meinertz and Winther, Ole},
  journal = {arXiv:1709.03933}, year = {2017}
}""",
    "guidance": """@article{ho2022guidance,
  title = {Classifier-Free Diffusion Guidance},
  author = {Ho, Jonathan and Salimans, Tim},
  journal = {arXiv:2207.12598}, year = {2022}
}""",
    "distilled": """@inproceedings{meng2023distillation,
  title = {On Distillation of Guided Diffusion Models},
  author = {Meng, Chenlin and Rombach, Robin and Gao, Ruiqi and Kingma, Diederik and Ermon, Stefano and Ho, Jonathan and
            Salimans, Tim},
  booktitle = {CVPR}, year = {2023}, note = {arXiv:2210.03142}
}""",
    "siren": """@article{sitzmann2020siren,
  title = {Implicit Neural Representations with Periodic Activation Functions},
  author = {Sitzmann, Vincent and Martel, Julien N. P. and Bergman, Alexander W. and Lindell, David B. and Wetzstein,
            Gordon}, journal = {arXiv:2006.09661}, year = {2020}
}""",
    "deepsets": """@article{zaheer2017deepsets,
  title = {Deep Sets},
  author = {Zaheer, Manzil and Kottur, Satwik and Ravanbakhsh, Siamak and P{\\'o}czos, Barnab{\\'a}s and Salakhutdinov,
            Ruslan and Smola, Alexander}, journal = {arXiv:1703.06114}, year = {2017}
}""",
    "patches": """@article{li2025jit,
  title = {Back to Basics: Let Denoising Generative Models Denoise},
  author = {Li, Tianhong and He, Kaiming},
  journal = {arXiv:2511.13720}, year = {2025}
}""",
}

_USED = {
    ("dynamics", "transformer"): ("dreamer4", "rotary", "dit", "sinks"),
    ("dynamics", "ssm"): ("mamba", "ssd", "ssmvideo", "rotary", "dit"),
    ("dynamics", "hybrid"): ("edeline", "mamba", "ssd", "dreamer4", "rotary", "dit", "sinks"),
    ("dynamics", "token_memory"): ("ttm", "rotary", "dit"),
    ("dynamics", "rssm"): ("dreamer3", "rotary", "dit"),
    ("dynamics", "reaction_diffusion"): ("fluidworld",),
    ("dynamics", "language"): ("pan", "rotary"),
    ("dynamics", "lora"): ("lora",),
    ("dynamics", "history"): ("worldmem", "magicworld", "memoryforcing"),
    **{("memory", name): (name,) for name in ("ladder", "snapkv", "cake", "maskkv", "tempcache", "razor", "epicache")},
    ("memory", "window"): ("sinks",),
    ("decoder", "masked"): ("maskgit", "mineworld", "deltairis"),
    ("decoder", "shortcut"): ("shortcut", "dreamer4", "forcing"),
    ("decoder", "residual"): ("corrdiff", "mar", "dit"),
    ("decoder", "swin"): ("pan", "dreamer4", "dit"),
    ("tokenizer", "fsq"): ("fsq",),
    ("tokenizer", "patches"): ("patches",),
    ("view", "field"): ("siren", "deepsets"),
    ("text", "words"): ("hashes",),
    ("text", "minilm"): ("minilm", "sbert"),
    ("training", "action_dropout"): ("guidance",),
    ("training", "distilled"): ("distilled",),
}


def cite(world: World) -> str:
    """Return the BibTeX entries of the papers whose ideas this world's parts compute."""
    config = world.config
    parts = [("dynamics", config.dynamics.name), ("decoder", config.decoder.name)]
    parts += [("dynamics", "history")] if config.dynamics.config.get("history") else []
    parts += [("dynamics", "lora")] if any("lora_A" in name for name, _ in world.dynamics.named_parameters()) else []
    parts += [("memory", world.dynamics.memory.policy)] if world.dynamics.memory else []
    parts += [("tokenizer", part.name) for part in config.tokenizers.values()]
    parts += [("view", part.name) for part in config.views.values()]
    parts += [("text", config.text.name if config.text else "words")] if text_leaves(world.dynamics) else []
    parts += [("training", "action_dropout")] if world.guidable else []
    parts += [("training", "distilled")] if "distilled" in world.record else []
    keys = dict.fromkeys(key for part in parts for key in _USED.get(part, ()))
    return "\n\n".join(_PAPERS[key] for key in keys)
